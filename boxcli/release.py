"""Which box this is."""

RELEASE = "0.1.0"
SPEC = "1.2.0"  # of the OCI runtime specification
