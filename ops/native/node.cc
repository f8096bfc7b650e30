// A node of an onnxruntime session: its kernel is made when the session starts and run by it.
#include "ops/native/node.h"

#include <atomic>
#include <vector>

#if defined(MNQ_CUDA)
#include "ops/native/cuda/definitions.h"
#endif

namespace mnq {
namespace {

constexpr size_t alignment = 64;

// The threads and the memory of the session, for one call.
class SessionContext : public Context {
 public:
  SessionContext(const OrtApi& api, OrtKernelContext* context, const OrtMemoryInfo* memory)
      : api_(api), context_(context), memory_(memory) {}

  ~SessionContext() override {
    for (void* block : blocks_) allocator_->Free(allocator_, block);
    if (allocator_ != nullptr) api_.ReleaseAllocator(allocator_);
  }

 private:
  void run_parallel(void (*task)(void*, size_t), size_t total, void* user) override {
    check(api_.KernelContext_ParallelFor(context_, task, total, 0, user));
  }

  void* allocate(size_t bytes) override {
    if (allocator_ == nullptr) {
      check(api_.KernelContext_GetAllocator(context_, memory_, &allocator_));
    }
    blocks_.reserve(blocks_.size() + 1);
    void* block = allocator_->Alloc(allocator_, bytes + alignment);
    if (block == nullptr) throw std::bad_alloc();
    blocks_.push_back(block);
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block) + alignment - 1) &
                                   ~(alignment - 1));
  }

  const OrtApi& api_;
  OrtKernelContext* context_;
  const OrtMemoryInfo* memory_;
  OrtAllocator* allocator_ = nullptr;
  std::vector<void*> blocks_;
};

void* data_of(const OrtApi& api, const OrtValue* value) {
  void* data = nullptr;
  check(api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

Owned<OrtMemoryInfo> cpu_memory(const OrtApi& api) {
  OrtMemoryInfo* info = nullptr;
  check(api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
  return {info, api.ReleaseMemoryInfo};
}

#if defined(MNQ_CUDA)
// The session's stream on the GPU.
void* stream_of(const OrtApi& api, OrtKernelContext* context) {
#if defined(MNQ_EMULATE_CUDA)
  (void)api, (void)context;
  return nullptr;
#else
  void* stream = nullptr;
  check(api.KernelContext_GetGPUComputeStream(context, &stream));
  return stream;
#endif
}
#endif

Tensor tensor_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info, const char* name,
                 const void* data) {
  ONNXTensorElementDataType number;
  check(api.GetTensorElementType(info, &number));
  try {
    return {name, type_of(number), shape_of(api, info), data};
  } catch (const Refusal& refusal) {
    throw Refusal(std::string("'") + name + "': " + refusal.what());
  }
}

// A tensor as the graph declares it; takes `type`.
Tensor declared(const OrtApi& api, OrtTypeInfo* type, const char* name) {
  const Owned<OrtTypeInfo> owner(type, api.ReleaseTypeInfo);
  const OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.CastTypeInfoToTensorInfo(type, &info));
  if (info == nullptr) throw Refusal(std::string("'") + name + "': expected a tensor");
  return tensor_of(api, info, name, nullptr);
}

Tensor input_of(const OrtApi& api, const OrtKernelInfo* kernel, size_t i, const char* name) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api.KernelInfoGetConstantInput_tensor(kernel, i, &is_constant, &value));
  if (is_constant == 0 || value == nullptr) {
    OrtTypeInfo* type = nullptr;
    check(api.KernelInfo_GetInputTypeInfo(kernel, i, &type));
    return declared(api, type, name);
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.GetTensorTypeAndShape(value, &info));
  const Owned<OrtTensorTypeAndShapeInfo> owner(info, api.ReleaseTensorTypeAndShapeInfo);
  return tensor_of(api, info, name, data_of(api, value));
}

// What the kernel writes has to fit into what the graph makes room for.
void check_output(const OrtApi& api, const OrtKernelInfo* kernel, Type expected) {
  OrtTypeInfo* type = nullptr;
  check(api.KernelInfo_GetOutputTypeInfo(kernel, 0, &type));
  const Type found = declared(api, type, "output").type;
  if (found != expected) {
    throw Refusal(std::string("output: expected ") + name_of(expected) + ", found " +
                  name_of(found));
  }
}

std::string title_of(const OrtApi& api, const OrtKernelInfo* kernel, const char* op) {
  size_t size = 0;
  check(api.KernelInfo_GetNodeName(kernel, nullptr, &size));
  std::string name(size, '\0');
  check(api.KernelInfo_GetNodeName(kernel, name.data(), &size));
  return std::string("mnq.") + op + " node '" + name.c_str() + "'";
}

class SessionNode {
 public:
  SessionNode(const OrtApi& api, const Operator& op, const OrtKernelInfo* info)
      : api_(api),
        on_device_(op.on_device),
        title_(title_of(api, info, op.definition->name)),
        memory_(cpu_memory(api)) {
    const Definition& definition = *op.definition;
    explained([&] {
      Node node{{}, definition.output};
      for (size_t i = 0; i < definition.inputs.size(); ++i) {
        node.inputs.push_back(input_of(api, info, i, definition.inputs[i]));
      }
      if (definition.has_to) {
        int64_t to = 0;
        check(api.KernelInfoGetAttribute_int64(info, "to", &to));
        node.to = type_of(to);
      }
      check_output(api, info, node.to);
      kernel_ = make(definition, node);
      inputs_ = std::move(node.inputs);
    });
  }

  ~SessionNode() { delete spare_.load(); }

  const OrtApi& api() const { return api_; }

  void compute(OrtKernelContext* context) {
    std::unique_ptr<Call> call(spare_.exchange(nullptr));  // null: another thread has it
    if (!call) call = new_call();
    explained([&] { run(*call, context); });
    delete spare_.exchange(call.release());
  }

 private:
  std::unique_ptr<Kernel> make(const Definition& definition, const Node& node) const {
#if defined(MNQ_CUDA)
    if (on_device_) return make_on_device(definition, node);
#endif
    return definition.make(node, chosen_path());
  }

  // What a call hands to the kernel. Constants stay in it from call to call.
  struct Call {
    std::vector<Tensor> inputs;
    std::vector<Shape> shapes;
  };

  std::unique_ptr<Call> new_call() const {
    auto call = std::make_unique<Call>();
    call->inputs = inputs_;
    for (const Tensor& input : inputs_) call->shapes.push_back(input.shape);
    return call;
  }

  void run(Call& call, OrtKernelContext* context) const {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].data != nullptr) continue;
      const OrtValue* value = nullptr;
      check(api_.KernelContext_GetInput(context, i, &value));
      OrtTensorTypeAndShapeInfo* info = nullptr;
      check(api_.GetTensorTypeAndShape(value, &info));
      const Owned<OrtTensorTypeAndShapeInfo> owner(info, api_.ReleaseTensorTypeAndShapeInfo);
      call.shapes[i] = call.inputs[i].shape = shape_of(api_, info);
      call.inputs[i].data = data_of(api_, value);
    }
    const Shape shape = kernel_->output_shape(call.shapes);
    OrtValue* output = nullptr;
    check(api_.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    if (count(shape) == 0) return;
    run_kernel(call.inputs, data_of(api_, output), context);
  }

  void run_kernel(const std::vector<Tensor>& inputs, void* output, OrtKernelContext* context) const {
#if defined(MNQ_CUDA)
    if (on_device_) {
      StreamContext session(stream_of(api_, context));
      kernel_->run(inputs, output, session);
      return;
    }
#endif
    SessionContext session(api_, context, memory_.get());
    kernel_->run(inputs, output, session);
  }

  // Says which node refuses, and what helps.
  template <class F>
  void explained(F&& body) const {
    try {
      body();
    } catch (const Refusal& refusal) {
      throw Refusal(title_ + ": " + refusal.what() +
                    "; export the model again, or run it without the mnq library: its own "
                    "functions compute the same integers");
    }
  }

  const OrtApi& api_;
  bool on_device_;
  std::string title_;
  Owned<OrtMemoryInfo> memory_;
  std::vector<Tensor> inputs_;  // as known when the session started: activations have no data
  std::unique_ptr<Kernel> kernel_;
  std::atomic<Call*> spare_{nullptr};
};

}  // namespace

Shape shape_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  check(api.GetDimensionsCount(info, &rank));
  Shape shape(rank);
  check(api.GetDimensions(info, shape.data(), rank));
  return shape;
}

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) {
  return guarded(*api, [&] {
    *kernel = new SessionNode(*api, *static_cast<const Operator*>(op), info);
  });
}

OrtStatus* compute_kernel(void* kernel, OrtKernelContext* context) {
  auto* node = static_cast<SessionNode*>(kernel);
  return guarded(node->api(), [&] { node->compute(context); });
}

void destroy_kernel(void* kernel) { delete static_cast<SessionNode*>(kernel); }

}  // namespace mnq
