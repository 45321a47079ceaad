"""The commands of `irn`, a module for each; `irn_cli.cli` puts them together."""
