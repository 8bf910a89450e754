"""`python -m bayes_mlff.finetune ...` is `bayes-mlff finetune ...`."""

import sys

from bayes_mlff.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["finetune"]
    main()
