// Asynchronous transfers to a device: passed through, and charged from when they are made.
#pragma once

#include "table.h"

namespace missile::pjrt {

void OverrideTransfers(Table* table);

}  // namespace missile::pjrt
