// Compiles if what src/cuda.h declares of CUDA's driver fits NVIDIA's header, named by CUDA_HEADER.
// Run with the fake driver's path, it finds there each name that the header maps to.
#include CUDA_HEADER
#include <dlfcn.h>

#include <cstdio>
#include <type_traits>

#include "../../xla_plugin/src/cuda.h"

template <typename Ours, typename Theirs>
struct Fits;

template <typename... Ours, typename... Theirs>
struct Fits<const missile::CudaCall<Ours...>, CUresult(Theirs...)> {
  static constexpr bool value =
      ((sizeof(Ours) == sizeof(Theirs) && std::is_pointer_v<Ours> == std::is_pointer_v<Theirs>) &&
       ...);
};

// clang-format off
#define CALLS(F)                                                                     \
  F(cuInit) F(cuDeviceGetCount) F(cuDeviceGet)                                       \
  F(cuDevicePrimaryCtxRetain) F(cuDevicePrimaryCtxRelease)                           \
  F(cuCtxPushCurrent) F(cuCtxPopCurrent)                                             \
  F(cuMemAlloc) F(cuMemFree) F(cuMemHostAlloc) F(cuMemFreeHost)                      \
  F(cuPointerGetAttribute)                                                           \
  F(cuMemcpyHtoDAsync) F(cuMemcpyDtoHAsync) F(cuMemcpyDtoDAsync)                     \
  F(cuStreamCreate) F(cuStreamSynchronize) F(cuStreamDestroy)                        \
  F(cuEventCreate) F(cuEventRecord) F(cuEventSynchronize) F(cuEventDestroy)
// clang-format on

#define FIT(name) static_assert(Fits<decltype(missile::CudaDriver::name), decltype(::name)>::value);
CALLS(FIT)

// The numbers in src/cuda.cc, src/cuda_device.cc and src/dlpack.h.
static_assert(CU_STREAM_NON_BLOCKING == 1);
static_assert((CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING) == 3);
static_assert(CU_MEMHOSTALLOC_PORTABLE == 1);
static_assert(CU_POINTER_ATTRIBUTE_MEMORY_TYPE == 2 && CU_MEMORYTYPE_HOST == 1);
static_assert(CUDA_SUCCESS == 0 && CUDA_ERROR_OUT_OF_MEMORY == 2);
static_assert(CUDA_ERROR_DEINITIALIZED == 4 && CUDA_ERROR_DEVICE_UNAVAILABLE == 46);
static_assert(CUDA_ERROR_NO_DEVICE == 100 && CUDA_ERROR_INVALID_DEVICE == 101);
static_assert(CUDA_ERROR_STUB_LIBRARY == 34 && CUDA_ERROR_SYSTEM_DRIVER_MISMATCH == 803);
static_assert(CUDA_ERROR_ILLEGAL_ADDRESS == 700 && CUDA_ERROR_CONTEXT_IS_DESTROYED == 709);
static_assert(CUDA_ERROR_ASSERT == 710 && CUDA_ERROR_ILLEGAL_INSTRUCTION == 715);
static_assert(CUDA_ERROR_MISALIGNED_ADDRESS == 716 && CUDA_ERROR_LAUNCH_FAILED == 719);

#define TEXT_OF(mapped) #mapped
#define FIND(name)                                           \
  if (dlsym(driver, TEXT_OF(name)) == nullptr) {             \
    std::printf("the driver's name is %s\n", TEXT_OF(name)); \
    return 1;                                                \
  }

int main(int /*argc*/, char** argv) {
  void* driver = dlopen(argv[1], RTLD_NOW);
  if (driver == nullptr) return 1;
  CALLS(FIND)
  return 0;
}
