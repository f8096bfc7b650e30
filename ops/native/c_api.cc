#include "ops/native/c_api.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <thread>

#include "ops/native/cpu/path.h"
#if defined(MNQ_CUDA)
#include "ops/native/cuda/definitions.h"
#else
#include "cuda_lacking.h"  // of the build: MNQ_CUDA_LACKING
#endif
#include "ops/native/kernel.h"

struct mnq_kernel {
  const mnq::Definition* definition;
  mnq::Type type;  // of the output
  bool on_device;
  std::unique_ptr<mnq::Kernel> kernel;
};

namespace mnq {
namespace {

// New threads for every call: simple, and slow to start. Sessions use onnxruntime's.
class ThreadContext : public Context {
 public:
  explicit ThreadContext(int32_t threads) : threads_(threads) {}

 private:
  void run_parallel(void (*task)(void*, size_t), size_t total, void* user) override {
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t i; (i = next++) < total;) task(user, i);
    };
    std::vector<std::thread> helpers;
    for (int32_t t = 1; t < threads_; ++t) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
  }

  void* allocate(size_t bytes) override {
    blocks_.emplace_back(new (std::align_val_t{64}) char[bytes]);
    return blocks_.back().get();
  }

  struct Free {
    void operator()(char* block) const { ::operator delete[](block, std::align_val_t{64}); }
  };
  int32_t threads_;
  std::vector<std::unique_ptr<char[], Free>> blocks_;
};

// Runs `body`; what it throws becomes a text. 0, or -1 if it threw.
template <class F>
int guarded(mnq_error* error, F&& body) noexcept {
  error->text[0] = '\0';
  try {
    body();
    return 0;
  } catch (const std::exception& caught) {
    std::strncpy(error->text, caught.what(), sizeof error->text - 1);
    error->text[sizeof error->text - 1] = '\0';
    return -1;
  }
}

const Definition& definition_named(const std::string& name) {
  for (const Definition& definition : definitions()) {
    if (name == definition.name) return definition;
  }
  throw Refusal("operator: expected one of this library, found '" + name +
                "'; mnq_operators() lists them");
}

Shape shape_of(const mnq_tensor& tensor) {
  if (tensor.rank < 0 || tensor.rank > MNQ_MAX_RANK) {
    throw Refusal("input: expected a rank of 0 to 8, found " + std::to_string(tensor.rank));
  }
  return {tensor.shape, tensor.shape + tensor.rank};
}

std::vector<Tensor> tensors_of(const Definition& definition, const mnq_tensor* inputs) {
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < definition.inputs.size(); ++i) {
    const mnq_tensor& input = inputs[i];
    tensors.push_back({definition.inputs[i], type_of(input.type), shape_of(input), input.data});
  }
  return tensors;
}

Shape output_shape(const mnq_kernel& made, const std::vector<Tensor>& inputs) {
  std::vector<Shape> shapes;
  for (const Tensor& input : inputs) shapes.push_back(input.shape);
  return made.kernel->output_shape(shapes);
}

std::string operator_lines() {
  std::string lines;
  for (const Definition& definition : definitions()) {
    lines += definition.name;
    for (size_t i = 0; i < definition.inputs.size(); ++i) {
      if (i == definition.activations) lines += " |";
      lines += std::string(" ") + definition.inputs[i];
    }
    lines += definition.has_to ? " | to\n" : " |\n";
  }
  return lines;
}

std::string path_names() {
  std::string names;
  for (const Path* path : available_paths()) {
    names += (names.empty() ? "" : " ") + std::string(path->name);
  }
  return names;
}

std::string cuda_lacking() {
#if defined(MNQ_CUDA)
  return device_lacking();
#else
  return "the library has no kernels for GPUs: " MNQ_CUDA_LACKING;
#endif
}

}  // namespace
}  // namespace mnq

using namespace mnq;

const char* mnq_operators(void) {
  static const std::string lines = operator_lines();
  return lines.c_str();
}

const char* mnq_paths(void) {
  static const std::string names = path_names();
  return names.c_str();
}

const char* mnq_cuda_lacking(void) {
  static const std::string why = cuda_lacking();
  return why.c_str();
}

const char* mnq_chosen_path(mnq_error* error) {
  const char* name = nullptr;
  guarded(error, [&] { name = chosen_path().name; });
  return name;
}

mnq_kernel* mnq_make(const char* name, const mnq_tensor* inputs, int32_t to, const char* path,
                     mnq_error* error) {
  std::unique_ptr<mnq_kernel> made;
  guarded(error, [&] {
    const Definition& definition = definition_named(name);
    const Type type = definition.has_to ? type_of(to) : definition.output;
    const Node node{tensors_of(definition, inputs), type};
#if defined(MNQ_CUDA)
    if (std::strcmp(path, "cuda") == 0) {
      made.reset(new mnq_kernel{&definition, type, true, make_on_device(definition, node)});
      return;
    }
#endif
    made.reset(new mnq_kernel{&definition, type, false, definition.make(node, path_named(path))});
  });
  return made.release();
}

void mnq_free(mnq_kernel* kernel) { delete kernel; }

int mnq_output(const mnq_kernel* kernel, const mnq_tensor* inputs, mnq_tensor* output,
               mnq_error* error) {
  return guarded(error, [&] {
    const Shape shape = output_shape(*kernel, tensors_of(*kernel->definition, inputs));
    output->type = static_cast<int32_t>(kernel->type);
    output->rank = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), output->shape);
  });
}

int mnq_run(const mnq_kernel* kernel, const mnq_tensor* inputs, void* output, int32_t threads,
            mnq_error* error) {
  return guarded(error, [&] {
    const std::vector<Tensor> tensors = tensors_of(*kernel->definition, inputs);
    const int64_t size = count(output_shape(*kernel, tensors));
    if (size == 0) return;
#if defined(MNQ_CUDA)
    if (kernel->on_device) {
      const size_t bytes = size * size_of(kernel->type);
      run_on_device(*kernel->kernel, tensors, kernel->definition->activations, output, bytes);
      return;
    }
#endif
    ThreadContext context(threads);
    kernel->kernel->run(tensors, output, context);
  });
}
