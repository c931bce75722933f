"""A command that is going to be killed: `actor.py REPOSITORY ROOT ACTION [MUTANT]`, run in an interpreter of its own.

It ends with 0, or with 1 and the StoreError's message.
"""

import sys

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

from store.errors import StoreError
from tests.crash.actions import act
from tests.crash.mutants import mutate

if __name__ == "__main__":
    if len(sys.argv) > 4:
        mutate(sys.argv[4])
    try:
        sys.exit(act(sys.argv[2], sys.argv[3]))
    except StoreError as err:
        sys.stdout.write(err.message)
        sys.exit(1)
