"""``python -m albef``: the command line of an environment whose scripts are not on PATH."""

from albef.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
