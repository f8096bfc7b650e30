// The language of device code: CUDA's, or on a machine without it an emulation (emulated.h) that
// runs the same kernels on the host. One axis of threads, warps of 32.
#pragma once

#include "ops/native/core.h"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define MNQ_DEVICE __device__ static __forceinline__
#define MNQ_KERNEL __global__ void

namespace mnq {

MNQ_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
MNQ_DEVICE int64_t block_x() { return blockIdx.x; }
MNQ_DEVICE int64_t block_y() { return blockIdx.y; }
MNQ_DEVICE int64_t block_z() { return blockIdx.z; }

MNQ_DEVICE void sync_block() { __syncthreads(); }
MNQ_DEVICE void sync_warp() { __syncwarp(); }

// The block's memory, of the size that it was launched with.
MNQ_DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char mnq_shared_memory[];
  return mnq_shared_memory;
}

// `value` of the lane whose number differs in the bits of `mask`. All lanes take part.
template <class T>
MNQ_DEVICE T from_lane_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// c += a b of the tensor cores, m16n8k32: each lane holds parts as PTX describes them. `a` is
// signed or not, b signed.
template <bool unsigned_a>
MNQ_DEVICE void multiply_add(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if (unsigned_a) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

}  // namespace mnq

#else
#include "ops/native/cuda/emulated.h"
#endif

namespace mnq {

constexpr int warp_size = 32;

MNQ_DEVICE int lane() { return thread() % warp_size; }
MNQ_DEVICE int warp() { return thread() / warp_size; }

// Of all lanes, in all lanes.
template <class T>
MNQ_DEVICE T warp_sum(T value) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) value += from_lane_xor(value, mask);
  return value;
}

template <class T>
MNQ_DEVICE T warp_max(T value) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) {
    const T other = from_lane_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

}  // namespace mnq
