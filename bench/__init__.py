"""Benchmarks: each prints a table of wall times, and of their ratios to those of the peers found here, in the same run.

`python -m bench --help` tells how to run one of them. The peers' daemons and stores are private, below a temporary directory.
"""
