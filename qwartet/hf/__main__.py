"""The command line of transformers with first-generation Qwen in it: `python -m qwartet.hf serve`, `chat`, `env`."""

import qwartet.hf  # noqa: F401  registers the classes

if __name__ == "__main__":
    from transformers.cli.transformers import main

    main()
