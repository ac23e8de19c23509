"""The exit codes of all commands."""

SUCCESS, FAILED, WRONG_USE = 0, 1, 2
RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: a batch system can put the same job back into its queue
INTERRUPTED = 130  # 128 plus the number of SIGINT, as shells have it
