"""``python -m pgbastion``: the command line, where no script was installed."""

from pgbastion.cli.main import main

if __name__ == "__main__":
    main()
