"""Run the command line as `python -m pipeline.cli`, which `torchrun` needs."""

from pipeline.cli.app import main

if __name__ == "__main__":
    main()
