"""What all tests rely on."""

from __future__ import annotations

import signal

# A shell's background job, as CI may be, inherits that interrupts are ignored, and so would the processes that tests
# interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
