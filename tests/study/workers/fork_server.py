"""A server that imports nothing early, and whose commands are ``forked_command``."""

from hpc_jepa.study import fork_server_main

if __name__ == "__main__":
    fork_server_main.PROGRAM = "tests.study.workers.forked_command"
    fork_server_main.import_early = lambda: print("imported", flush=True)
    fork_server_main.main()
