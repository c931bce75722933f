#!/bin/sh
cat /etc/motd
echo "I am $(id -un 2>/dev/null || id -u) on $(hostname), process $$."
