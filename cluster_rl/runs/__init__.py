"""All bytes on disk that a run keeps, but for its replay: where they lie, who holds them, how they are written whole.

In come plain values, tensors and recordings; out go the files of the run directory (`docs/run_directory.md`), read back
checked or refused in one line. Launcher, learner and actors write them; every command reads them. It knows no game and
no network: it may import `config`, `configs` and `errors` alone.
"""
