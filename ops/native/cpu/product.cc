#include "ops/native/cpu/product.h"

#include <algorithm>
#include <cstring>

namespace mnq {
namespace {

constexpr int64_t task_panels = 4;  // 64 columns: with 32 rows they fit the first-level cache
constexpr int64_t most_rows = 256;  // of a task: their codes stay in the second-level cache
constexpr int64_t enough_tasks = 6;  // to share among a few threads evenly
constexpr int64_t row_multiple = 32;

// Rows of one task; the last task takes the remainder as well, so that none is below a tile.
int64_t task_rows(int64_t rows, int64_t column_tasks) {
  int64_t parts = (rows + most_rows - 1) / most_rows;
  while (parts * column_tasks < enough_tasks && rows / (parts + 1) >= row_multiple) ++parts;
  return std::min(rows, round_up((rows + parts - 1) / parts, row_multiple));
}

}  // namespace

Packed::Packed(const Path& path, int64_t k, int64_t n)
    : path_(&path),
      k_(k),
      n_(n),
      panels_(round_up(n, panel_columns) * round_up(k, cache_line)),
      bias_(round_up(n, panel_columns)) {}

void Packed::fill(const int8_t* b, int64_t row_stride, int64_t column_stride) {
  path_->pack(b, row_stride, column_stride, k_, n_, panels_.data(), bias_.data());
}

void Packed::multiply(const int8_t* a, int64_t rows, const LinearJob& base,
                      Context& context) const {
  if (rows == 0) return;
  LinearJob job = base;
  job.k = k_;
  job.panels = panels_.data();
  job.bias = bias_.data();
  job.a = a;
  job.a_stride = k_;
  const int64_t stride = path_->prepared_stride(k_);
  if (stride != 0 || rows < path_->row_tile) {
    const int64_t row_bytes = stride != 0 ? stride : k_;
    char* prepared = context.scratch<char>(std::max(rows, path_->row_tile) * row_bytes);
    constexpr int64_t step = 64;
    context.parallel((rows + step - 1) / step, [&](size_t task) {
      const int64_t first = static_cast<int64_t>(task) * step;
      path_->prepare(a + first * k_, k_, std::min(step, rows - first), k_,
                     prepared + first * row_bytes);
    });
    job.a = reinterpret_cast<const int8_t*>(prepared);
    job.a_stride = row_bytes;
  }
  const int64_t panels = (n_ + panel_columns - 1) / panel_columns;
  const int64_t column_tasks = (panels + task_panels - 1) / task_panels;
  const int64_t height = task_rows(rows, column_tasks);
  const int64_t row_tasks = rows / height;
  context.parallel(row_tasks * column_tasks, [&](size_t task) {
    const int64_t column_task = static_cast<int64_t>(task) % column_tasks;
    const int64_t row_task = static_cast<int64_t>(task) / column_tasks, row = row_task * height;
    LinearJob mine = job;
    mine.a += row * job.a_stride;
    mine.first_panel = column_task * task_panels;
    mine.last_panel = std::min(panels, mine.first_panel + task_panels);
    RequantizeJob& finish = mine.finish;
    finish.rows = row_task + 1 == row_tasks ? rows - row : height;
    finish.y = static_cast<char*>(finish.y) + row * finish.y_stride * size_of(finish.y_type);
    if (finish.r != nullptr) {
      finish.r =
          static_cast<const char*>(finish.r) + row * finish.r_stride * size_of(finish.r_type);
    }
    path_->linear(mine);
  });
}

}  // namespace mnq
