// The language of device code: CUDA's, or on a machine without it an emulation (emulated.h) that
// runs the same kernels on the host. One axis of threads, warps of 32.
#pragma once

#include "ops/native/core.h"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define MNQ_DEVICE __device__ static __forceinline__
#define MNQ_KERNEL __global__ void
#define MNQ_KERNEL_OF(threads) __global__ void __launch_bounds__(threads)
#define MNQ_UNROLL _Pragma("unroll")  // arrays that a loop indexes stay in registers

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

MNQ_DEVICE unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Starts to copy 16 bytes into shared memory, or 16 zeros; both ends are multiples of 16.
MNQ_DEVICE void copy_later(void* shared, const void* from, bool zeros) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(from), "r"(zeros ? 0 : 16));
}

// The copies that this thread has started since the last call are a group.
MNQ_DEVICE void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's groups but the last `but`; others see them after a barrier.
template <int but>
MNQ_DEVICE void wait_for_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(but) : "memory");
}

// Four matrices of 8 rows of 16 bytes in shared memory: lane l gives the address of row l % 8 of
// matrix l / 8, and gets bytes 4 (l % 4) to + 3 of row l / 4 of every matrix.
MNQ_DEVICE void load_matrices(const void* row, uint32_t (&words)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
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
