// Timings from which channels are told apart, taken on a GPU itself.
//
// Memory that is probed holds zeros, which the kernels add to addresses: so each load waits for the
// one before, and the compiler can not know. Loads pass the L1 (.cg); what must come from DRAM has
// been flushed out of the L2 and is read once. 256 bytes that are aligned lie in one channel.
//
// missile_jax/data/channel_probe.ptx is made of this file: xla_plugin/cuda/make_ptx.sh.

namespace {

constexpr unsigned kSectorBytes = 32;
constexpr unsigned kSectors = 8;
constexpr unsigned kLineBytes = 128;
constexpr unsigned kWarmUp = 4;
// Rounds of a loader between two looks at whether it is done, and how many looks it takes at most.
constexpr unsigned kStretch = 64;
constexpr unsigned kStretches = 1u << 16;
constexpr long long kPatienceCycles = 1ll << 31;

__device__ unsigned Load(unsigned long long address) {
  unsigned value;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

__device__ unsigned Multiprocessor() {
  unsigned number;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(number));
  return number;
}

}  // namespace

struct Control {
  unsigned started;
  unsigned stop;
};

// Streams a buffer through the L2, so that nothing else is left there.
extern "C" __global__ void missile_flush(const unsigned* buffer, unsigned long long words,
                                         unsigned* sink) {
  unsigned sum = 0;
  const unsigned long long step = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
  for (unsigned long long i =
           static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < words; i += step) {
    sum += Load(reinterpret_cast<unsigned long long>(buffer + i));
  }
  if (sum != 0) *sink = sum;
}

// One thread goes to and fro between the lines of two granules, each read once: in one bank every
// step closes the other's row, in two banks both rows stay open.
extern "C" __global__ void missile_pair_latency(unsigned long long first, unsigned long long second,
                                                unsigned lines, unsigned long long* cycles) {
  // The pages' translations, from elsewhere in them.
  unsigned zero = Load(first ^ (1u << 20)) + Load(second ^ (1u << 20));
  const long long start = clock64();
  for (unsigned line = 0; line < lines; ++line) {
    zero += Load(first + line * kLineBytes + zero);
    zero += Load(second + line * kLineBytes + zero);
  }
  const long long end = clock64();
  *cycles = static_cast<unsigned long long>(end - start) / (2 * lines) + zero;
}

// One block for each multiprocessor. On `target` one warp goes round `measured`, two addresses a
// lane; all others stream `loaded`, eight sectors of each address.
extern "C" __global__ void missile_set_round(const unsigned long long* loaded,
                                             unsigned loaded_count,
                                             const unsigned long long* measured,
                                             unsigned measured_count, unsigned target,
                                             unsigned rounds, Control* control,
                                             unsigned long long* cycles) {
  volatile Control* shared = control;
  if (Multiprocessor() != target) {
    if (loaded_count == 0) return;
    const unsigned long long address =
        loaded[threadIdx.x / kSectors % loaded_count] + threadIdx.x % kSectors * kSectorBytes;
    unsigned zero = Load(address);
    if (threadIdx.x == 0) atomicAdd(&control->started, 1 + zero);
    for (unsigned stretch = 0; stretch < kStretches; ++stretch) {
      for (unsigned i = 0; i < kStretch; ++i) zero += Load(address + zero);
      unsigned stop = 0;
      if (threadIdx.x % 32 == 0) stop = shared->stop;
      if (__shfl_sync(~0u, stop, 0) != 0) break;
    }
    if (zero != 0) *cycles = zero;
    return;
  }
  if (threadIdx.x >= 32) return;
  if (loaded_count != 0 && threadIdx.x == 0) {
    const long long since = clock64();
    while (shared->started + 1 < gridDim.x && clock64() - since < kPatienceCycles) {
    }
  }
  __syncwarp();
  unsigned long long here = measured[threadIdx.x % measured_count];
  unsigned long long there = measured[(threadIdx.x + 32) % measured_count];
  long long start = 0;
  for (unsigned round = 0; round < kWarmUp + rounds; ++round) {
    if (round == kWarmUp) start = clock64();
    const unsigned a = Load(here);
    const unsigned b = Load(there);
    here += a;
    there += b;
    __syncwarp();
  }
  const long long end = clock64();
  if (threadIdx.x == 0) {
    shared->stop = 1;
    *cycles = static_cast<unsigned long long>(end - start) / rounds;
  }
}

// On `target` one thread loads from one address of the L2 again and again: how far is its slice?
extern "C" __global__ void missile_l2_latency(unsigned long long address, unsigned target,
                                              unsigned hops, unsigned long long* cycles) {
  if (Multiprocessor() != target || threadIdx.x != 0) return;
  unsigned zero = Load(address);
  const long long start = clock64();
  for (unsigned hop = 0; hop < hops; ++hop) zero += Load(address + zero);
  const long long end = clock64();
  *cycles = static_cast<unsigned long long>(end - start) / hops + zero;
}
