// Kernels of the fake CUDA driver: those of xla_plugin/cuda/channel_probe.cu, by what they would
// time on a GPU of 8 channels with two L2 sides. Built together with fake_cuda.cc. Cycles are ns.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace {

using Result = int;
using Address = std::uint64_t;

constexpr Address kChannels[] = {0x64911400, 0x46b2b800, 0xce4c3000};
constexpr Address kBanks[] = {0x2510a000, 0x36e18000, 0x48890000, 0xb9d20000};
constexpr Address kSide = 0xB3000;
constexpr std::uint64_t kAlone = 160;
constexpr std::uint64_t kQueues = 8000;

// The name of a function is its handle.
const std::string kNames[] = {"missile_flush", "missile_pair_latency", "missile_set_round",
                              "missile_l2_latency"};
int loaded_modules = 0;

template <std::size_t n>
unsigned Parities(Address address, const Address (&masks)[n]) {
  unsigned bits = 0;
  for (const Address mask : masks) bits = 2 * bits + __builtin_parityll(address & mask);
  return bits;
}

template <typename T>
T Argument(void** arguments, int number) {
  T value;
  std::memcpy(&value, arguments[number], sizeof(value));
  return value;
}

}  // namespace

extern "C" {

Result cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t size_bytes, void* stream);
Result cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t size_bytes, void* stream);
Result cuStreamSynchronize(void* stream);

int fakeModules() { return loaded_modules; }

Result cuCtxGetDevice(int* device) {
  *device = 0;
  return 0;
}

Result cuDeviceGetAttribute(int* value, int number, int /*device*/) {
  *value = number == 16 ? 20 : number == 13 ? 1'000'000 : number == 38 ? 1 << 16 : -1;
  return *value < 0;
}

Result cuModuleLoadData(void** module, const void* text) {
  for (const std::string& name : kNames) {
    if (std::strstr(static_cast<const char*>(text), (".entry " + name + "(").c_str()) == nullptr) {
      return 1;
    }
  }
  ++loaded_modules;
  *module = &loaded_modules;
  return 0;
}

Result cuModuleUnload(void* /*module*/) {
  --loaded_modules;
  return 0;
}

Result cuModuleGetFunction(const void** function, void* /*module*/, const char* name) {
  const auto* found = std::find(std::begin(kNames), std::end(kNames), name);
  *function = found;
  return found == std::end(kNames);
}

Result cuMemsetD8Async(Address to, unsigned char value, std::size_t size_bytes, void* stream) {
  const std::vector<unsigned char> bytes(size_bytes, value);
  const Result copied = cuMemcpyHtoDAsync_v2(to, bytes.data(), size_bytes, stream);
  return copied != 0 ? copied : cuStreamSynchronize(stream);
}

Result cuLaunchKernel(const std::string* name, unsigned blocks, unsigned, unsigned, unsigned,
                      unsigned, unsigned, unsigned, void* stream, void** arguments, void**) {
  std::uint64_t cycles = 0;
  Address result = 0;
  if (*name == "missile_pair_latency") {
    const auto first = Argument<Address>(arguments, 0);
    const auto second = Argument<Address>(arguments, 1);
    const bool bank = Parities(first, kChannels) == Parities(second, kChannels) &&
                      Parities(first, kBanks) == Parities(second, kBanks);
    cycles = bank && first >> 18 != second >> 18 ? 270 : 230;
    result = Argument<Address>(arguments, 3);
  } else if (*name == "missile_l2_latency") {
    const auto address = Argument<Address>(arguments, 0);
    cycles = 200 + 60 * __builtin_parityll(address & (kSide | 0x600000));
    result = Argument<Address>(arguments, 3);
  } else if (*name == "missile_set_round") {
    if (Argument<unsigned>(arguments, 4) >= blocks) return 1;
    std::vector<Address> sets[2];
    for (const int i : {0, 1}) {
      sets[i].resize(Argument<unsigned>(arguments, 2 * i + 1));
      if (sets[i].empty()) continue;
      cuMemcpyDtoHAsync_v2(sets[i].data(), Argument<Address>(arguments, 2 * i), 8 * sets[i].size(),
                           stream);
      cuStreamSynchronize(stream);
    }
    const bool share = std::any_of(sets[0].begin(), sets[0].end(), [&](Address a) {
      return std::any_of(sets[1].begin(), sets[1].end(), [&](Address b) {
        return Parities(a, kChannels) == Parities(b, kChannels);
      });
    });
    cycles = share ? std::max(kAlone, kQueues / sets[0].size()) : kAlone;
    result = Argument<Address>(arguments, 7);
  } else {
    return 0;
  }
  cuMemcpyHtoDAsync_v2(result, &cycles, sizeof(cycles), stream);
  return cuStreamSynchronize(stream);
}

}  // extern "C"
