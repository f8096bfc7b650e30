// Products by vpmaddwd, which is exact: pairs of 16-bit products are added in 32 bits. (vpmaddubsw
// would saturate at 16.) Rows are widened to 16 bits, panels hold two consecutive k per column.
#pragma once

#include "ops/native/cpu/path/gemm_blocks.h"

namespace mnq {
namespace MNQ_PATH {

constexpr int64_t row_tile = 1;
constexpr int k_pair = 2;

static int64_t padded_k(int64_t k) { return (k + 1) / k_pair * k_pair; }

static int64_t prepared_stride(int64_t k) { return (2 * padded_k(k) + 63) / 64 * 64; }

template <class Code>
MNQ_INNER void widen_rows(const Code* a, int64_t stride, int64_t rows, int64_t k, void* prepared) {
  for (int64_t i = 0; i < rows; ++i) {
    auto* to = reinterpret_cast<int16_t*>(static_cast<char*>(prepared) + i * prepared_stride(k));
    for (int64_t j = 0; j < k; ++j) to[j] = a[i * stride + j];
    if (k % k_pair != 0) to[k] = 0;
  }
}

static void prepare(const int8_t* a, int64_t stride, int64_t rows, int64_t k, void* prepared) {
  widen_rows(a, stride, rows, k, prepared);
}

// Weights of attention are codes 0..255: on other paths they are multiplied as they are.
static void prepare_unsigned(const uint8_t* a, int64_t stride, int64_t rows, int64_t k,
                             void* prepared) {
  widen_rows(a, stride, rows, k, prepared);
}

static int64_t panel_bytes(int64_t k) { return padded_k(k) * panel_columns; }

static void pack(const int8_t* b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n,
                 int8_t* panels, int32_t* offsets) {
  pack_groups<k_pair, k_pair>(b, row_stride, column_stride, k, n, panels);
  for (int64_t j = 0; j < n; ++j) offsets[j] = 0;
}

struct Multiply {
  template <int rows, int panels>
  __attribute__((noinline)) static void run(const LinearJob& job, int64_t row, int64_t panel, int32_t* z,
                      int64_t z_stride) {
    static_assert(panels == 1, "12 accumulators of the 16 registers are one panel of 6 rows");
    const __m128i* b = reinterpret_cast<const __m128i*>(job.panels + panel * panel_bytes(job.k));
    const int8_t* a = job.a + row * job.a_stride;
    __m256i sum[rows][2];
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) sum[i][v] = load(job.bias + panel * panel_columns + v * lanes);
    }
    const int64_t pairs = padded_k(job.k) / k_pair;
    for (int64_t k = 0; k < pairs; ++k) {
      const __m256i b0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(b + 2 * k));
      const __m256i b1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(b + 2 * k + 1));
#pragma GCC unroll 6
      for (int i = 0; i < rows; ++i) {
        int32_t pair;
        std::memcpy(&pair, a + i * job.a_stride + 4 * k, sizeof pair);
        const __m256i both = _mm256_set1_epi32(pair);
        sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(both, b0));
        sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(both, b1));
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) store(z + i * z_stride + v * lanes, sum[i][v]);
    }
  }
};

static void linear_rows(const LinearJob& job) {
  for (int64_t panel = job.first_panel; panel < job.last_panel; ++panel) {
    linear_panels<Multiply, 6, 1>(job, panel);
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
