"""Make the Python reference from docstrings: `python docs/build.py [DIRECTORY]`, by default in `build/docs`.

It needs pdoc (`pip install '.[docs]'`).
"""

import sys
from pathlib import Path

import pdoc

import irn_cli


def reference(directory: Path) -> None:
    """The pages with every public name's docstring, in HTML."""
    for name in irn_cli.__all__:  # pdoc sees only what is loaded
        setattr(irn_cli, name, getattr(irn_cli, name))
    pdoc.render.configure(docformat="google", footer_text=f"irn {irn_cli.__version__}", search=False)
    pdoc.pdoc("irn_cli", output_directory=directory)


if __name__ == "__main__":
    reference(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "build" / "docs")
