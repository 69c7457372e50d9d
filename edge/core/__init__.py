"""What the recorder decides: no I/O, no clock, no threads, no logging. `now` is an argument."""
