// What a launch of the attention kernel works on.
#pragma once

#include "ops/native/cpu/attention_job.h"  // Softmax, distances
#include "ops/native/cuda/host.h"

namespace mnq {

// Elements from one image, head or token to the next.
struct Steps {
  int64_t image, head, token;
};

// A number for every head, or one for all of them.
struct HeadNumbers {
  const int32_t* of;
  bool per_head;
};

// The softmax of every head: arrays of `distances` numbers, one head after the other, or one for all
// of them.
struct DeviceSoftmax {
  Softmax kind;
  bool per_head;
  const uint8_t* weights;
  const uint32_t* numerators;
  const int64_t* exps;
  uint64_t dividend, largest_sum;
};

// Heads of images, or of windows of images, whose tokens `order` names.
struct DeviceAttention {
  const int8_t *q, *k, *v;
  Steps query, key, out;
  int64_t images, windows, heads;
  int queries, keys, depth;
  bool whole;  // rows are whole pieces of 16 bytes, and lie so in memory
  const int64_t* order;  // (windows, keys); null: tokens follow each other, and windows is 1
  const int64_t* plane;  // of the bias, by window; null: by image
  const int32_t* bias;
  Places bias_places;  // by row: (plane, head, query)
  HeadNumbers score_m, score_e;
  int32_t score_lo, score_hi;
  DeviceSoftmax softmax;
  HeadNumbers m, e, lo, hi;
  int8_t* y;
};

// Of a block's shared memory, in bytes.
struct AttentionMemory {
  int rows;           // of a block's queries: 16 per warp
  int plane_stride;   // of a row of scores, later of weights
  int query_stride;   // of a row of queries or keys
  int value_stride;   // of a column of values
  int planes;         // of weights: 1, or 2 for the bytes of 16-bit probabilities
  int tile_at, planes_at, factors_at, total;
};

constexpr int attention_keys = 64;    // of a tile of keys or values
constexpr int attention_depth = 32;   // of a step along the depth, and of a tile of values

MNQ_CORE bool has_two_planes(Softmax kind) {
  return kind == Softmax::scaled || kind == Softmax::scaled_log2;
}

inline AttentionMemory attention_memory(int warps, int keys, int depth, Softmax kind) {
  AttentionMemory memory{};
  const auto padded = [](int length, int multiple) {
    return (length + multiple - 1) / multiple * multiple + 16;  // 16: banks do not collide
  };
  memory.rows = 16 * warps;
  memory.plane_stride = padded(keys, attention_keys);
  memory.query_stride = padded(depth, attention_depth);
  memory.value_stride = attention_keys + 16;
  memory.planes = has_two_planes(kind) ? 2 : 1;
  memory.tile_at = memory.rows * memory.query_stride;
  const int tile = attention_keys * memory.query_stride;
  const int values = attention_depth * memory.value_stride;
  memory.planes_at = memory.tile_at + (tile > values ? tile : values);
  memory.factors_at = memory.planes_at + memory.planes * memory.rows * memory.plane_stride;
  memory.total = memory.factors_at + memory.rows * 8;
  return memory;
}

}  // namespace mnq
