"""`python -m irn_cli` is `irn`."""

from irn_cli.cli import main

main()
