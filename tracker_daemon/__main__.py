"""`python -m tracker_daemon`."""

from tracker_daemon.cli import main

if __name__ == "__main__":
    main()
