"""How often tests repeat a random fault: seldom by default, more often in `make test-faults`.

A repetition only makes it less likely that a fault is missed. The worst moments that are known have tests of their own.
"""

import os

RUN_KILLS = int(os.environ.get("TERN_TEST_KILLS", "3"))
"""Number of runs that a test kills at random moments; 10 in `make test-faults`."""
WRITER_KILLS = int(os.environ.get("TERN_TEST_INDEX_KILLS", "10"))
"""Number of writers of a store or an index that a test kills at random moments; 50 in `make test-faults`."""
