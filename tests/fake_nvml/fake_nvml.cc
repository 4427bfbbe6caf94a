// A stand-in for libnvidia-ml.so.1: the calls that missile_jax.observe.gpu makes, with NVML's own
// signatures, so that nvidia-ml-py itself can be tried without a driver. It shows
//
// 0  a GPU that tells all;
// 1  one that is divided (MIG), with instances at places 0 and 2 of 7;
// 2  one that has fallen off the bus;
// 3  a virtual one, which tells its memory alone, and knows of no MIG;
// 4  one that tells its name alone.
#include <cstdio>

namespace {

enum {
  kSuccess = 0,
  kUninitialized = 1,
  kInvalid = 2,
  kNotSupported = 3,
  kNotFound = 6,
  kTooShort = 7,
  kLost = 15
};

struct Device {
  int gpu;
  int instance;  // -1 for the GPU itself
};

Device gpus[] = {{0, -1}, {1, -1}, {2, -1}, {3, -1}, {4, -1}};
Device instances[] = {{1, 0}, {1, 2}};
constexpr unsigned kGpus = 5;
int inits = 0;

}  // namespace

extern "C" {

int fakeInits() { return inits; }

int nvmlInitWithFlags(unsigned int flags) {
  ++inits;
  return flags == 0 ? kSuccess : kInvalid;
}

const char* nvmlErrorString(int code) {
  return code == kLost ? "GPU is lost" : code == kNotSupported ? "Not Supported" : "Other";
}

int nvmlDeviceGetCount_v2(unsigned int* count) {
  if (inits == 0) return kUninitialized;
  *count = kGpus;
  return kSuccess;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device** device) {
  if (index >= kGpus) return kInvalid;
  if (index == 2) return kLost;
  *device = &gpus[index];
  return kSuccess;
}

int nvmlDeviceGetUUID(Device* device, char* uuid, unsigned int length) {
  int wrote = device->instance < 0
                  ? snprintf(uuid, length, "GPU-%d", device->gpu)
                  : snprintf(uuid, length, "MIG-%d-%d", device->gpu, device->instance);
  return wrote < static_cast<int>(length) ? kSuccess : kTooShort;
}

int nvmlDeviceGetMemoryInfo(Device* device, unsigned long long memory[3]) {
  if (device->gpu == 4) return kNotSupported;
  unsigned long long total = device->instance < 0 ? 80ull << 30 : 10ull << 30;
  memory[0] = total;
  memory[1] = total - 1000;  // free stands before used
  memory[2] = 1000;
  return kSuccess;
}

int nvmlDeviceGetUtilizationRates(Device* device, unsigned int rates[2]) {
  if (device->gpu != 0) return kNotSupported;
  rates[0] = 42;
  rates[1] = 7;
  return kSuccess;
}

int nvmlDeviceGetPowerUsage(Device* device, unsigned int* milliwatts) {
  if (device->gpu != 0) return kNotSupported;
  *milliwatts = 123456;
  return kSuccess;
}

int nvmlDeviceGetMigMode(Device* device, unsigned int* current, unsigned int* pending) {
  if (device->gpu > 1) return kNotSupported;
  *current = *pending = static_cast<unsigned int>(device->gpu);
  return kSuccess;
}

int nvmlDeviceGetMaxMigDeviceCount(Device* device, unsigned int* count) {
  *count = device->gpu == 1 ? 7 : 0;
  return kSuccess;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device* device, unsigned int index, Device** instance) {
  for (Device& one : instances) {
    if (one.gpu == device->gpu && one.instance == static_cast<int>(index)) {
      *instance = &one;
      return kSuccess;
    }
  }
  return kNotFound;
}

}  // extern "C"
