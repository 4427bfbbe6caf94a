// The C heap that XLA's CPU client takes its buffers from.
#pragma once

namespace missile {

// Asks the allocator to keep what is freed instead of giving it back to the system, so that the
// large buffers of the next launch bring no page faults. Returns whether it listened.
bool KeepFreedMemory();

}  // namespace missile
