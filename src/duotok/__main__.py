"""`python -m duotok`: the form that `torchrun -m` and `accelerate launch -m` need."""

from duotok.cli.main import main

if __name__ == "__main__":
    main()
