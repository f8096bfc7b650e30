// What GPUs of compute capability 9.0 have besides (device.h): boxes of a matrix that the copy engine
// brings into shared memory, and products that four warps, a warp group, start together and wait for.
//
// Both operands of such a product lie in shared memory as the copy engine leaves them: rows of
// box_bytes codes along k, one after the other from a multiple of box_alignment on, whose 16-byte pieces
// are exchanged within groups of 8 rows so that banks do not collide (a swizzle of 128 bytes).
#pragma once

#include "ops/native/cuda/host.h"

#if defined(__CUDACC__)
#include <cuda.h>

#define MNQ_CONSTANT __grid_constant__  // parameters of a kernel that the copy engine reads
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MNQ_HOPPER 1
#else
#define MNQ_HOPPER 0
#endif
#else
#define MNQ_CONSTANT
#define MNQ_HOPPER 1
#endif

namespace mnq {

constexpr int box_bytes = 128;       // of a row
constexpr int box_alignment = 1024;  // of a box in shared memory: 8 rows
constexpr int group_rows = 64;       // of a product of a warp group
constexpr int product_codes = 32;    // of it along k
constexpr int group_warps = 4;

// A matrix in shared memory, as a product is told of it: its address, 1024 bytes from 8 rows to the
// next, and the swizzle (PTX ISA, "Matrix descriptor").
MNQ_DEVICE uint64_t matrix_at(const void* shared) {
  return (shared_address(shared) & 0x3ffff) >> 4 | uint64_t{1} << 16 |
         uint64_t{box_alignment >> 4} << 32 | uint64_t{1} << 62;
}

#if defined(__CUDACC__)

using BoxMap = CUtensorMap;

#if MNQ_HOPPER

// A barrier of one phase after the other, each of which ends with the bytes that were expected.
using Barrier = uint64_t;

// One thread makes barriers, and then says so, before a barrier of the block.
MNQ_DEVICE void make_barrier(Barrier* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}
MNQ_DEVICE void barriers_are_made() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Once in every phase.
MNQ_DEVICE void expect_bytes(Barrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

// Waits for the end of the phase before which `phase` others, modulo 2, have ended.
MNQ_DEVICE void wait_for_bytes(Barrier* barrier, int phase) {
  uint32_t ended = 0;
  while (ended == 0) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(phase)
        : "memory");
  }
}

// Starts to copy the box of `map` from (row, column) on; what lies outside the matrix is zeros.
MNQ_DEVICE void copy_box(void* shared, const BoxMap& map, int row, int column, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

// Products are started between these two; sums are not touched from the first one on until the group
// is waited for.
MNQ_DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
MNQ_DEVICE void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits for the groups of products but the last `but`.
template <int but>
MNQ_DEVICE void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(but) : "memory");
}

#define MNQ_SUMS(c, i) "+r"((c)[i][0]), "+r"((c)[i][1]), "+r"((c)[i][2]), "+r"((c)[i][3])
#define MNQ_SUMS_4(c, i) \
  MNQ_SUMS(c, i), MNQ_SUMS(c, i + 1), MNQ_SUMS(c, i + 2), MNQ_SUMS(c, i + 3)

// c += a b for 64 rows of a and 64 or 128 columns of b, and product_codes of each: starts it. A warp of the
// group has 16 rows, its lanes sums as multiply_add leaves them.
MNQ_DEVICE void start_product(int32_t (&c)[8][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p;\n"
      "}"
      : MNQ_SUMS_4(c, 0), MNQ_SUMS_4(c, 4)
      : "l"(a), "l"(b), "r"(1));  // 1: adds to the sums
}
MNQ_DEVICE void start_product(int32_t (&c)[16][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, p;\n"
      "}"
      : MNQ_SUMS_4(c, 0), MNQ_SUMS_4(c, 4), MNQ_SUMS_4(c, 8), MNQ_SUMS_4(c, 12)
      : "l"(a), "l"(b), "r"(1));
}

#undef MNQ_SUMS_4
#undef MNQ_SUMS

#endif
#endif

}  // namespace mnq

#if !defined(__CUDACC__)
#include "ops/native/cuda/emulated_hopper.h"
#endif

namespace mnq {

// The map of a matrix of `rows` rows of `bytes` bytes on the device, for boxes of so many rows.
BoxMap box_map(const void* data, int64_t rows, int64_t bytes, int box_rows);

// Whether products shall run on warp groups: MNQ_CUDA_PATH is wgmma, not mma, which is the default.
// Throws Refusal if it is neither, or the current device has none.
bool wants_warp_groups();

}  // namespace mnq
