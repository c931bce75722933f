"""`box commit`: a container as an image."""

from __future__ import annotations

from boxcli import readers
from boxcli.table import Argument, Option, Values, Verb

VERB = Verb(
    "commit",
    "Make an image of what a container has become",
    Option("-c", "--change", metavar="LINE", many=True, about="Change the config, such as 'CMD [\"sh\"]' or 'ENV A=b'."),
    Option("-m", "--message", metavar="TEXT", about="A comment for the image's history."),
    Option("-a", "--author", metavar="TEXT", about="Who made it."),
    Option("--pause", metavar="true|false", read=readers.boolean, about="Pause the container meanwhile (else true)."),
    Option("-p", about="The same as --pause=true."),
    Argument("CONTAINER", completes="container"),
    Argument("NAME", required=False, read=readers.image_name),
    description="What is mounted in the container is not in the image. --change takes a Dockerfile's CMD, ENTRYPOINT, ENV, "
    "EXPOSE, HEALTHCHECK, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR.",
)


def main(values: Values) -> int:
    """Make it; print its id."""
    from builder.commit import commit
    from runtime.state import Containers
    from store.layout import Store

    store = Store.open(values.root, values.driver)
    made = commit(
        store,
        Containers(values.root).find(values.text("container")),
        values.text("name"),
        changes=values.all("change", str),
        message=values.text("message"),
        author=values.text("author"),
        pause=values.one("pause", bool) is not False,
    )
    print(store.images.load(made).id)
    return 0
