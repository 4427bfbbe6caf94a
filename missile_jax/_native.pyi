from collections.abc import Sequence

import numpy as np

__version__: str
STAGING_ALIGNMENT: int

def stack_rows(parts: Sequence[np.ndarray], rows: int) -> np.ndarray: ...
def staging_blocks() -> int: ...
def staging_bytes() -> int: ...
