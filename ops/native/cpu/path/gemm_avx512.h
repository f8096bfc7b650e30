// Products by vpdpbusd (u8 x s8, four at a time, no saturation). Signed rows are stored plus 128;
// the offset of column n takes 128 * (sum of its weights) back. Panels hold four consecutive k.
#pragma once

#include "ops/native/cpu/path/gemm_blocks.h"

namespace mnq {
namespace MNQ_PATH {

constexpr int64_t row_tile = 1;
constexpr int k_group = 4;

static int64_t prepared_stride(int64_t k) { return (k + 63) / 64 * 64; }

static void prepare(const int8_t* a, int64_t stride, int64_t rows, int64_t k, void* prepared) {
  for (int64_t i = 0; i < rows; ++i) {
    uint8_t* to = static_cast<uint8_t*>(prepared) + i * prepared_stride(k);
    for (int64_t j = 0; j < k; ++j) to[j] = static_cast<uint8_t>(a[i * stride + j] ^ 0x80);
    for (int64_t j = k; j % k_group != 0; ++j) to[j] = 0;  // times the zeros of the panel
  }
}

static int64_t panel_bytes(int64_t k) { return (k + 3) / k_group * k_group * panel_columns; }

static void pack(const int8_t* b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n,
                 int8_t* panels, int32_t* offsets) {
  pack_groups<k_group, k_group>(b, row_stride, column_stride, k, n, panels);
  const __m512i all_128 = _mm512_set1_epi8(-128);
  for (int64_t panel = 0; panel * panel_columns < n; ++panel) {
    __m512i sum = _mm512_setzero_si512();
    for (int64_t at = 0; at < panel_bytes(k); at += 64) {
      sum = _mm512_dpbusd_epi32(sum, all_128, _mm512_loadu_si512(panels + at));
    }
    panels += panel_bytes(k);
    _mm512_storeu_si512(offsets + panel * panel_columns,
                        _mm512_sub_epi32(_mm512_setzero_si512(), sum));
  }
}

struct Multiply {
  // Loops are unrolled in full, or the accumulators would live in memory.
  template <int rows, int panels>
  __attribute__((noinline)) static void run(const LinearJob& job, int64_t row, int64_t panel,
                                            int32_t* z, int64_t z_stride) {
    const int64_t bytes = panel_bytes(job.k), stride = job.a_stride;
    const int8_t* b = job.panels + panel * bytes;
    // Every third row has a pointer: an address reaches the two after it, and twelve pointers
    // would not fit the registers.
    const int8_t* a = job.a + row * stride;
    const int8_t *a3 = a + 3 * stride, *a6 = a + 6 * stride, *a9 = a + 9 * stride;
    __m512i sum[rows][panels];
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) sum[i][p] = load(job.bias + (panel + p) * panel_columns);
    }
    for (int64_t k = 0; k < job.k; k += k_group) {
      __m512i columns[panels];
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) {
        columns[p] = _mm512_load_si512(b + p * bytes + k * panel_columns);
      }
#pragma GCC unroll 12
      for (int i = 0; i < rows; ++i) {
        const int8_t* third = i < 3 ? a : i < 6 ? a3 : i < 9 ? a6 : a9;
        int32_t four;
        std::memcpy(&four, third + k + i % 3 * stride, sizeof four);
        const __m512i codes = _mm512_set1_epi32(four);
#pragma GCC unroll 2
        for (int p = 0; p < panels; ++p) {
          sum[i][p] = _mm512_dpbusd_epi32(sum[i][p], codes, columns[p]);
        }
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) store(z + i * z_stride + p * lanes, sum[i][p]);
    }
  }
};

static void linear_rows(const LinearJob& job) {
  int64_t panel = job.first_panel;
  for (; panel + 2 <= job.last_panel; panel += 2) linear_panels<Multiply, 12, 2>(job, panel);
  if (panel < job.last_panel) linear_panels<Multiply, 12, 1>(job, panel);
}

}  // namespace MNQ_PATH
}  // namespace mnq
