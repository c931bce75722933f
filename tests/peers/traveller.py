"""An image that says, from within, all that must survive a journey: content, modes, owners, links, times, what was removed, the
configuration. Whoever runs it prints the same.
"""

import json
import os
from pathlib import Path

from tests.command import installed

NAME = "traveller"

BOXFILE = """\
box: 1
name: traveller
base: {host: [sh, cat, ls, ln, rm, mkdir, id, stat, readlink, setcap, getcap]}
steps:
  - copy: tree/ -> /srv/tree
  - copy: {from: facts, to: /usr/bin/facts, mode: "0755"}
  - write: {to: /srv/tree/read only, text: "locked\\n", mode: "0440", owner: "1234:4000000000"}
  - mkdir: {path: /srv/tree/shared, mode: "2775", owner: "7:8"}
  - symlink: {path: /srv/tree/link, target: ../tree/data}
  - run: ln /srv/tree/data /srv/tree/twin && setcap cap_net_bind_service+ep /srv/tree/tool
  - remove: [/srv/tree/removed]
  - run: |
      rm /srv/tree/deleted
      rm -r /srv/tree/replaced && mkdir /srv/tree/replaced && echo new > /srv/tree/replaced/new
  - env: {COLOUR: "a 'quoted' $value", EMPTY: ""}
  - workdir: /srv/tree
  - user: nobody
config:
  entrypoint: [sh, -c, 'facts; for each; do echo "argument <$each>"; done', facts]
  cmd: [one, two words]
  expose: [8080/tcp, 53/udp]
  volumes: [/srv/data]
  labels: {org.opencontainers.image.title: traveller, empty: ""}
  stop_signal: SIGUSR1
  healthcheck: {command: ["true"], interval: 30s}
"""

# What containers may differ in (a host name, a variable of the runtime's own) is left out.
FACTS = """\
#!/bin/sh
echo "colour <$COLOUR> empty <${EMPTY-unset}> path <$PATH>"
echo "in $(pwd) as $(id)"
for each in * */*; do
    stat -c '%n: %F %a %u:%g %Y' "$each"
    [ -d "$each" ] || stat -c '  %s bytes, %h names' "$each"
done
readlink link
cat data replaced/new
getcap tool
"""

EXPECTED = (
    "colour <a 'quoted' $value> empty <> path </usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin>",
    "in /srv/tree as uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)",
    "data: regular file 644 0:0 315532800\n  5 bytes, 2 names\n",
    "read only: regular file 440 1234:4000000000 315532800\n  7 bytes, 1 names\n",
    "shared: directory 2775 7:8 315532800",
    "kept/naïve 名: regular file 644 0:0 315532800",
    "tool cap_net_bind_service=ep",
    "argument <one>",
    "argument <two words>",
)


def lay_out(directory: Path) -> Path:
    """The Boxfile and what it copies."""
    tree = directory / "tree"
    for name in ("replaced", "kept", "empty"):
        (tree / name).mkdir(parents=True)
    for name, text in (
        ("data", "data\n"),
        ("tool", "#!/bin/sh\n"),
        ("removed", "by a step\n"),
        ("deleted", "by a command\n"),
        ("replaced/old", "old\n"),
        ("kept/naïve 名", "unicode\n"),
        ("n" * 120, "a name that no plain tar header holds\n"),
    ):
        (tree / name).write_text(text)
    os.chmod(tree / "tool", 0o755)
    (directory / "facts").write_text(FACTS)
    (directory / "Boxfile").write_text(BOXFILE)
    return directory


def check_facts(printed: str) -> None:
    """That the image is as its Boxfile says, whoever ran it."""
    for line in EXPECTED:
        assert line in printed, printed
    for gone in ("removed", "deleted", "old"):
        assert f"\n{gone}: " not in printed, printed
        assert f"/{gone}: " not in printed, printed
    assert "\nreplaced/new: regular file 644 " in printed, printed
    assert printed.count(", 2 names\n") == 2, printed  # data and twin


def digests(root: str | os.PathLike[str], name: str) -> tuple[str, str]:
    """An image's id (its configuration's digest) and the digest of its manifest."""
    (found,) = json.loads(installed.run("--root", root, "inspect", name).stdout)
    return found["Id"], found["Digest"]
