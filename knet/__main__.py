"""`python -m knet` is the `knet` command."""

from knet.cli import app

if __name__ == "__main__":  # engine processes import this file, too
    app(prog_name="knet")
