// A block has some queries of one head on chip, with all of their scores: the exact maximum and sum
// of a row are at hand, and nothing is rescaled on the way. A warp has 16 of the queries.
#include "ops/native/cuda/attention.h"

#include "ops/fqvit_softmax/kernel.h"
#include "ops/native/cpu/softmax_tables.h"
#include "ops/native/cuda/attention_job.h"
#include "ops/native/cuda/rescale.h"

namespace mnq {
namespace {

constexpr int warp_rows = 16;

// The head that a block works on, and where its tokens are.
struct Head {
  int64_t image, window, head, first_query;
};

MNQ_DEVICE Head head_of_block(const DeviceAttention& job, int rows) {
  const int64_t at = block_x();
  return {at / job.heads / job.windows, at / job.heads % job.windows, at % job.heads,
          block_y() * rows};
}

MNQ_DEVICE int64_t token(const DeviceAttention& job, const Head& here, int64_t place) {
  return job.order == nullptr ? place : job.order[here.window * job.keys + place];
}

MNQ_DEVICE int64_t start_of(const Steps& steps, const Head& here) {
  return here.image * steps.image + here.head * steps.head;
}

MNQ_DEVICE uint32_t word_at(const void* memory) {
  return *static_cast<const uint32_t*>(memory);
}

// Rows [first, first + rows) of codes into shared memory, zeros behind the last row and column.
MNQ_DEVICE void load_rows(const DeviceAttention& job, const Head& here, const int8_t* from,
                          const Steps& steps, int first, int rows, int all, int threads,
                          const AttentionMemory& memory, int8_t* to) {
  const int columns = memory.query_stride - 16;
  for (int i = thread(); i < rows * columns; i += threads) {
    const int row = i / columns, column = i % columns;
    int8_t code = 0;
    if (first + row < all && column < job.depth) {
      code = from[start_of(steps, here) + token(job, here, first + row) * steps.token + column];
    }
    to[row * memory.query_stride + column] = code;
  }
}

// Columns [first_column, + attention_depth) of the values of keys [first_key, + attention_keys), a
// row for each column.
MNQ_DEVICE void load_values(const DeviceAttention& job, const Head& here, int first_key,
                            int first_column, int threads, const AttentionMemory& memory,
                            int8_t* to) {
  for (int i = thread(); i < attention_keys * attention_depth; i += threads) {
    const int key = i / attention_depth, column = i % attention_depth;
    int8_t code = 0;
    if (first_key + key < job.keys && first_column + column < job.depth) {
      code = job.v[start_of(job.key, here) + token(job, here, first_key + key) * job.key.token +
                   first_column + column];
    }
    to[column * memory.value_stride + key] = code;
  }
}

// The fragment of 16 rows and 32 columns from `memory` on.
MNQ_DEVICE void load_left(const void* memory, int stride, uint32_t (&left)[4]) {
  const char* from = static_cast<const char*>(memory) + lane() / 4 * stride + lane() % 4 * 4;
  for (int r = 0; r < 4; ++r) left[r] = word_at(from + r % 2 * 8 * stride + r / 2 * 16);
}

MNQ_DEVICE void load_right(const void* memory, int stride, uint32_t (&right)[2]) {
  const char* from = static_cast<const char*>(memory) + lane() / 4 * stride + lane() % 4 * 4;
  for (int r = 0; r < 2; ++r) right[r] = word_at(from + r * 16);
}

// Line 1 for this warp's rows and the keys of the tile in shared memory.
MNQ_DEVICE void score_tile(const DeviceAttention& job, const Head& here, int first_key,
                           const AttentionMemory& memory, const int8_t* q, const int8_t* k,
                           int8_t* scores) {
  const int64_t own = job.score_per_head ? here.head : 0;
  const int32_t m = job.score_m[own], e = job.score_e[own];
  const int64_t plane = job.plane == nullptr ? here.image : job.plane[here.window];
  for (int j = 0; j < attention_keys; j += 8) {
    int32_t sums[4] = {};
    for (int d = 0; d < memory.query_stride - 16; d += attention_depth) {
      uint32_t left[4], right[2];
      load_left(q + warp() * warp_rows * memory.query_stride + d, memory.query_stride, left);
      load_right(k + j * memory.query_stride + d, memory.query_stride, right);
      multiply_add<false>(sums, left, right);
    }
    for (int r = 0; r < 4; ++r) {
      const int row = warp() * warp_rows + lane() / 4 + r / 2 * 8;
      const int key = first_key + j + lane() % 4 * 2 + r % 2;
      const int64_t query = here.first_query + row;
      if (key >= job.keys || query >= job.queries) continue;
      const int64_t bias_row = (plane * job.heads + here.head) * job.queries + query;
      const uint32_t bias = static_cast<uint32_t>(job.bias[place(job.bias_places, bias_row, key)]);
      const auto z = static_cast<int32_t>(static_cast<uint32_t>(sums[r]) + bias);
      scores[row * memory.plane_stride + key] =
          static_cast<int8_t>(clamp(rescale_word(z, m, e), job.score_lo, job.score_hi));
    }
  }
}

MNQ_DEVICE int64_t factor_of(int64_t divisor) { return power_of_two(31) / divisor; }

// Line 2 for one row of scores, which becomes one or two rows of weights; line 4's factor.
MNQ_DEVICE int64_t soften_row(const DeviceAttention& job, const Head& here,
                              const AttentionMemory& memory, int8_t* row) {
  const DeviceSoftmax& softmax = job.softmax;
  const int64_t first = softmax.per_head ? here.head * distances : 0;
  int top = -128;
  for (int i = lane(); i < job.keys; i += warp_size) top = row[i] > top ? row[i] : top;
  top = warp_max(top);
  uint8_t* low = reinterpret_cast<uint8_t*>(row);
  uint8_t* high = low + memory.rows * memory.plane_stride;
  int64_t factor = 1;
  if (softmax.kind == Softmax::table) {
    int64_t sum = 0;
    for (int i = lane(); i < job.keys; i += warp_size) {
      low[i] = softmax.weights[first + top - row[i]];
      sum += low[i];
    }
    factor = factor_of(warp_sum(sum));
  } else if (softmax.kind == Softmax::scaled) {
    int64_t sum = 0;
    for (int i = lane(); i < job.keys; i += warp_size) {
      sum += softmax.numerators[first + top - row[i]];
    }
    const auto total = static_cast<uint64_t>(warp_sum(sum));
    const uint64_t f =
        softmax.dividend / (total < softmax.largest_sum ? total : softmax.largest_sum);
    for (int i = lane(); i < job.keys; i += warp_size) {
      const uint64_t p = (softmax.numerators[first + top - row[i]] * f) >> 16;
      low[i] = static_cast<uint8_t>(p);
      high[i] = static_cast<uint8_t>(p >> 8);
    }
  } else {
    int64_t sum = 0;
    for (int i = lane(); i < job.keys; i += warp_size) sum += softmax.exps[first + top - row[i]];
    sum = warp_sum(sum);
    int64_t least_log = fqvit_never;
    for (int i = lane(); i < job.keys; i += warp_size) {
      least_log = least(least_log, negative_log2(sum, softmax.exps[first + top - row[i]]));
    }
    least_log = -warp_max(-least_log);
    for (int i = lane(); i < job.keys; i += warp_size) {
      const int64_t log = negative_log2(sum, softmax.exps[first + top - row[i]]);
      if (softmax.kind == Softmax::log2) {
        const int64_t behind = log - least_log;
        low[i] = behind < deferred_levels ? static_cast<uint8_t>(128 >> behind) : 0;
      } else {
        const int64_t code = fqvit_softmax_code(log);
        const int64_t p = code == fqvit_zero_code ? 0 : power_of_two(15 - code);
        low[i] = static_cast<uint8_t>(p);
        high[i] = static_cast<uint8_t>(p >> 8);
      }
    }
    if (softmax.kind == Softmax::log2) {
      factor = least_log + 7 > 31 ? 0 : factor_of(power_of_two(least_log + 7));
    }
  }
  for (int i = job.keys + lane(); i < memory.plane_stride - 16; i += warp_size) {
    low[i] = 0;
    if (memory.planes == 2) high[i] = 0;
  }
  return factor;
}

// Lines 4 and 5.
MNQ_DEVICE int8_t finish(const DeviceAttention& job, int32_t low, int32_t high, int64_t factor) {
  const int64_t u = has_two_planes(job.softmax.kind)
                        ? low + 256 * static_cast<int64_t>(high)
                        : (low * factor + (1 << 15)) >> 16;
  return static_cast<int8_t>(
      clamp(rescale_word(static_cast<int32_t>(u), job.m, job.e), job.lo, job.hi));
}

// Line 3 for columns [first_column, + attention_depth) of the output, and what follows it.
MNQ_DEVICE void weigh_values(const DeviceAttention& job, const Head& here, int first_column,
                             int threads, const AttentionMemory& memory, const uint8_t* planes,
                             const int64_t* factors, int8_t* tile) {
  constexpr int column_tiles = attention_depth / 8;
  int32_t sums[2][column_tiles][4] = {};
  for (int first_key = 0; first_key < job.keys; first_key += attention_keys) {
    sync_block();
    load_values(job, here, first_key, first_column, threads, memory, tile);
    sync_block();
    for (int key = 0; key < attention_keys; key += 32) {
      for (int plane = 0; plane < memory.planes; ++plane) {
        uint32_t left[4];
        const int row = plane * memory.rows + warp() * warp_rows;
        load_left(planes + row * memory.plane_stride + first_key + key, memory.plane_stride, left);
        for (int j = 0; j < column_tiles; ++j) {
          uint32_t right[2];
          load_right(tile + j * 8 * memory.value_stride + key, memory.value_stride, right);
          multiply_add<true>(sums[plane][j], left, right);
        }
      }
    }
  }
  for (int j = 0; j < column_tiles; ++j) {
    for (int r = 0; r < 4; ++r) {
      const int row = warp() * warp_rows + lane() / 4 + r / 2 * 8;
      const int column = first_column + j * 8 + lane() % 4 * 2 + r % 2;
      const int64_t query = here.first_query + row;
      if (query >= job.queries || column >= job.depth) continue;
      job.y[start_of(job.out, here) + token(job, here, query) * job.out.token + column] =
          finish(job, sums[0][j][r], sums[1][j][r], factors[row]);
    }
  }
}

template <int warps>
MNQ_KERNEL attention_kernel(DeviceAttention job, AttentionMemory memory) {
  constexpr int threads = warps * warp_size;
  auto* q = reinterpret_cast<int8_t*>(shared_memory());
  int8_t *tile = q + memory.tile_at, *scores = q + memory.planes_at;
  auto* factors = reinterpret_cast<int64_t*>(q + memory.factors_at);
  const Head here = head_of_block(job, memory.rows);
  const auto first_query = static_cast<int>(here.first_query);
  load_rows(job, here, job.q, job.query, first_query, memory.rows, job.queries, threads, memory, q);
  for (int first_key = 0; first_key < job.keys; first_key += attention_keys) {
    sync_block();
    load_rows(job, here, job.k, job.key, first_key, attention_keys, job.keys, threads, memory,
              tile);
    sync_block();
    score_tile(job, here, first_key, memory, q, tile, scores);
  }
  sync_warp();  // a warp reads the scores of its own rows only
  for (int i = 0; i < warp_rows; ++i) {
    const int row = warp() * warp_rows + i;
    if (here.first_query + row >= job.queries) break;
    const int64_t factor = soften_row(job, here, memory, scores + row * memory.plane_stride);
    if (lane() == 0) factors[row] = factor;
  }
  sync_warp();
  for (int column = 0; column < job.depth; column += attention_depth) {
    weigh_values(job, here, column, threads, memory, reinterpret_cast<const uint8_t*>(scores),
                 factors, tile);
  }
}

constexpr int most_warps = 4;

class AttentionOnDevice : public DeviceKernel {
 public:
  AttentionOnDevice(const Node& node, std::unique_ptr<Kernel> contract, SoftmaxMethod method,
                    bool deferred, AttentionLayout layout)
      : DeviceKernel(std::move(contract)),
        layout_(layout),
        bias_shape_(node["bias"].shape),
        bias_(node.constant("bias", Type::int32)),
        score_m_(node["m_s"]),
        score_e_(node["e_s"]) {
    const auto number = [&](const char* name) { return static_cast<int32_t>(node.scalar(name)); };
    job_.score_m = score_m_.data();
    job_.score_e = score_e_.data();
    job_.score_per_head = count(node["m_s"].shape) > 1;
    job_.score_lo = number("lo_s");
    job_.score_hi = number("hi_s");
    job_.m = number("m");
    job_.e = number("e");
    job_.lo = number("lo");
    job_.hi = number("hi");
    job_.bias = bias_.data();
    copy_tables(HeadTables(node, method, deferred, job_.score_hi - job_.score_lo));
    if (layout == AttentionLayout::window) {
      order_ = DeviceArray<int64_t>(node["order"]);
      kind_ = DeviceArray<int64_t>(node["kind"]);
      job_.order = order_.data();
      job_.plane = kind_.data();
      window_shape_ = node["order"].shape;
    }
    allow_shared(attention_kernel<most_warps>, most_shared);
    allow_shared(attention_kernel<1>, most_shared);
  }

  void run(const std::vector<Tensor>& inputs, void* output, Context& context) const override {
    DeviceAttention job = job_;
    const Shape& shape = inputs[0].shape;
    job.q = inputs[0].as<int8_t>();
    job.y = static_cast<int8_t*>(output);
    job.images = shape[0];
    job.windows = 1;
    if (layout_ == AttentionLayout::separate) {
      const int64_t heads = shape[1], queries = shape[2], keys = inputs[1].shape[2];
      place_tokens(job, heads, queries, keys, shape[3]);
      job.k = inputs[1].as<int8_t>();
      job.v = inputs[2].as<int8_t>();
      job.query = job.out = {heads * queries * shape[3], queries * shape[3], shape[3]};
      job.key = {heads * keys * shape[3], keys * shape[3], shape[3]};
    } else {
      const int64_t tokens = shape[1], heads = shape[3], width = heads * shape[4];
      const bool windows = layout_ == AttentionLayout::window;
      const int64_t length = windows ? window_shape_[1] : tokens;
      if (windows) job.windows = window_shape_[0];
      place_tokens(job, heads, length, length, shape[4]);
      job.k = job.q + width;
      job.v = job.q + 2 * width;
      job.query = job.key = {tokens * 3 * width, shape[4], 3 * width};
      job.out = {tokens * width, shape[4], width};
    }
    const int64_t planes = job.plane == nullptr ? job.images : bias_shape_[0];
    const Shape scores{planes, job.heads, job.queries, job.keys};
    job.bias_places = places_of(RowBroadcast("bias", bias_shape_, scores));
    const auto need = [&](int warps) {
      return attention_memory(warps, job.keys, job.depth, job.softmax.kind);
    };
    const int64_t heads = job.images * job.windows * job.heads;
    if (static_cast<size_t>(need(most_warps).total) <= most_shared) {
      start(attention_kernel<most_warps>, most_warps, need(most_warps), heads, job, context);
    } else if (static_cast<size_t>(need(1).total) <= most_shared) {
      start(attention_kernel<1>, 1, need(1), heads, job, context);
    } else {
      throw Refusal("inputs: expected rows of scores that fit a block's shared memory, found " +
                    std::to_string(job.keys) + " keys of depth " + std::to_string(job.depth));
    }
  }

 private:
  static void place_tokens(DeviceAttention& job, int64_t heads, int64_t queries, int64_t keys,
                           int64_t depth) {
    job.heads = heads;
    job.queries = static_cast<int>(queries);
    job.keys = static_cast<int>(keys);
    job.depth = static_cast<int>(depth);
  }

  static void start(void (*kernel)(DeviceAttention, AttentionMemory), int warps,
                    const AttentionMemory& memory, int64_t heads, const DeviceAttention& job,
                    Context& context) {
    const int64_t parts = blocks_of(job.queries, memory.rows);
    if (heads * parts == 0) return;
    launch(kernel,
           {heads, parts, 1, warps * warp_size, static_cast<size_t>(memory.total)},
           context.stream(), job, memory);
  }

  void copy_tables(const HeadTables& tables) {
    std::vector<uint8_t> weights;
    std::vector<uint32_t> numerators;
    std::vector<int64_t> exps;
    for (int64_t head = 0; head < tables.heads(); ++head) {
      const SoftmaxTables& own = tables.of(head);
      weights.insert(weights.end(), own.weights, own.weights + distances);
      numerators.insert(numerators.end(), own.numerators, own.numerators + distances);
      exps.insert(exps.end(), own.exps, own.exps + distances);
    }
    weights_ = DeviceArray<uint8_t>(weights);
    numerators_ = DeviceArray<uint32_t>(numerators);
    exps_ = DeviceArray<int64_t>(exps);
    const SoftmaxTables& any = tables.of(0);
    job_.softmax = {any.kind,        tables.heads() > 1, weights_.data(), numerators_.data(),
                    exps_.data(),    any.dividend,       any.largest_sum};
  }

  AttentionLayout layout_;
  DeviceAttention job_{};
  Shape bias_shape_, window_shape_;
  DeviceArray<int32_t> bias_, score_m_, score_e_;
  DeviceArray<int64_t> order_, kind_, exps_;
  DeviceArray<uint8_t> weights_;
  DeviceArray<uint32_t> numerators_;
};

}  // namespace

std::unique_ptr<Kernel> make_device_attention(const Node& node, std::unique_ptr<Kernel> contract,
                                              SoftmaxMethod method, bool deferred,
                                              AttentionLayout layout) {
  return std::make_unique<AttentionOnDevice>(node, std::move(contract), method, deferred, layout);
}

}  // namespace mnq
