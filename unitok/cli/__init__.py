"""The command `unitok`: one module per command; each imports torch and the tokenizer only when it runs."""


def main() -> None:
    """Run the command line and exit."""
    from unitok.cli.app import app  # here, since it imports every command

    app()
