// Products in plain C++: panels hold four consecutive k per column, rows are read as they are.
#pragma once

#include "ops/native/cpu/path/gemm_blocks.h"

namespace mnq {
namespace MNQ_PATH {

constexpr int64_t row_tile = 1;

static int64_t prepared_stride(int64_t) { return 0; }

static void prepare(const int8_t*, int64_t, int64_t, int64_t, void*) {}

static int64_t panel_bytes(int64_t k) { return k * panel_columns; }

static void pack(const int8_t* b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n,
                 int8_t* panels, int32_t* offsets) {
  pack_groups<1, 1>(b, row_stride, column_stride, k, n, panels);
  for (int64_t j = 0; j < n; ++j) offsets[j] = 0;
}

struct Multiply {
  template <int rows, int panels>
  __attribute__((noinline)) static void run(const LinearJob& job, int64_t row, int64_t panel, int32_t* z,
                      int64_t z_stride) {
    for (int64_t i = 0; i < rows; ++i) {
      const int8_t* a = job.a + (row + i) * job.a_stride;
      for (int64_t p = 0; p < panels; ++p) {
        const int8_t* b = job.panels + (panel + p) * panel_bytes(job.k);
        int32_t sum[panel_columns];
        std::memcpy(sum, job.bias + (panel + p) * panel_columns, sizeof sum);
        for (int64_t k = 0; k < job.k; ++k) {
          const int32_t code = job.unsigned_a ? static_cast<uint8_t>(a[k]) : a[k];
          for (int64_t j = 0; j < panel_columns; ++j) {
            sum[j] = add(sum[j], code * b[k * panel_columns + j]);
          }
        }
        std::memcpy(z + i * z_stride + p * panel_columns, sum, sizeof sum);
      }
    }
  }
};

static void linear_rows(const LinearJob& job) {
  for (int64_t panel = job.first_panel; panel < job.last_panel; ++panel) {
    linear_panels<Multiply, 4, 1>(job, panel);
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
