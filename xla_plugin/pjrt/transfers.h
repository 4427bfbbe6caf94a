// Asynchronous transfers. To a device: passed through, and charged from when they are made. From a
// buffer, to the host, a device or a memory: passed through, and the block of a view is held until
// its bytes have been read; on a GPU the view may end before.
#pragma once

#include "table.h"

namespace missile::pjrt {

void OverrideTransfers(Table* table);

}  // namespace missile::pjrt
