// What every kernel is and is given, in plain C++: nothing here knows onnxruntime.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "ops/native/type.h"

namespace mnq {

using Shape = std::vector<int64_t>;  // -1 is a length that is not known yet

size_t size_of(Type type);        // bytes of one element
const char* name_of(Type type);   // "int8", ...
Type type_of(int64_t number);     // by ONNX's number; throws Refusal if it is none of these
std::string text_of(const Shape& shape);  // "(1, 197, ?)"
int64_t count(const Shape& shape);        // number of elements of a known shape

// Something outside an operator's contract. The message says what was expected and found;
// whoever catches it adds operator and node.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An operand. `data` is null while it is not known, as activations are when a kernel is made.
struct Tensor {
  const char* name;
  Type type;
  Shape shape;
  const void* data;

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

// A node of a model when its session starts: constant inputs have data.
struct Node {
  std::vector<Tensor> inputs;  // in the operator's order
  Type to;                     // element type of the output

  const Tensor& operator[](const char* name) const;  // throws std::out_of_range

  // Constant inputs; each throws Refusal if the input is no constant or of another type or shape.
  const Tensor& constant(const char* name, Type type) const;
  int64_t scalar(const char* name, Type type = Type::int32) const;
  int64_t scalar_within(const char* name, int64_t lo, int64_t hi) const;  // int32
  const Tensor& vector(const char* name, Type type, int64_t length) const;
  // An activation of one of the types `allowed`.
  const Tensor& activation(const char* name, std::initializer_list<Type> allowed) const;
};

// What a running kernel may use of its host: threads, and memory that lives until run() returns.
class Context {
 public:
  virtual ~Context() = default;

  // Calls task(i) for every i in [0, total), on several threads, in any order. Throws what the
  // first failing task has thrown, after all have ended.
  template <class F>
  void parallel(size_t total, F&& task) {
    struct Tasks {
      std::remove_reference_t<F>* task;
      std::atomic<bool> failed;
      std::exception_ptr error;
    } tasks{&task, {false}, nullptr};
    const auto guarded_task = [](void* given, size_t i) {
      auto& all = *static_cast<Tasks*>(given);
      try {
        (*all.task)(i);
      } catch (...) {
        if (!all.failed.exchange(true)) all.error = std::current_exception();
      }
    };
    run_parallel(guarded_task, total, &tasks);
    if (tasks.error) std::rethrow_exception(tasks.error);
  }

  // Of a GPU: the stream that kernels run in.
  virtual void* stream() const { return nullptr; }

  // At least `bytes` bytes, aligned to 64; what they hold is not defined.
  template <class T>
  T* scratch(size_t elements) {
    return static_cast<T*>(allocate(elements * sizeof(T)));
  }

 private:
  // Tasks throw nothing.
  virtual void run_parallel(void (*task)(void*, size_t), size_t total, void* user) = 0;
  virtual void* allocate(size_t bytes) = 0;
};

// A node made ready: weights packed, tables built. run() is const: several threads may call it.
class Kernel {
 public:
  virtual ~Kernel() = default;

  // The output's shape for these inputs (constants included, shapes all known).
  // Throws Refusal if they are outside the contract.
  virtual Shape output_shape(const std::vector<Shape>& inputs) const = 0;

  // Computes `output`, of output_shape(); it may share memory with the input that the
  // definition names as `in_place`. Inputs are in the operator's order.
  virtual void run(const std::vector<Tensor>& inputs, void* output, Context& context) const = 0;
};

struct Path;  // inner loops for one instruction set (cpu/path.h)

// One operator of the domain: its signature, and what makes its kernel.
struct Definition {
  const char* name;
  std::vector<const char*> inputs;  // names, activations first
  size_t activations;               // how many of them
  Type output;                      // element type if there is no attribute `to`
  bool has_to;                      // whether there is one
  int in_place;                     // the input whose memory the output may take, or -1
  // Throws Refusal. Shapes of activations may be partly unknown (-1).
  std::unique_ptr<Kernel> (*make)(const Node& node, const Path& path);
  // The output's shape before a session runs (infer.h); null: that of the first input.
  Shape (*infer)(const std::vector<Shape>& inputs) = nullptr;
};

const std::vector<Definition>& definitions();  // every operator, in cpu/definitions.cc

}  // namespace mnq
