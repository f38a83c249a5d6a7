#include "decoder_layer.h"

#include "thread_pool.h"

namespace qw {
namespace {

// bf16 [T, width] in scratch memory
uint16_t* rows(Scratch purpose, int64_t num_tokens, int64_t width) {
    return static_cast<uint16_t*>(scratch(purpose, num_tokens * width * 2));
}

bool share_activations(const Linear& a, const Linear& b) {
    return a.is_packed && b.is_packed && a.packed.bits == b.packed.bits && a.packed.unit == b.packed.unit &&
           a.packed.order == b.packed.order;
}

// h = up(x) * silu(gate(x))
uint16_t* swiglu(const Layer& layer, const uint16_t* x, int64_t num_tokens, Low low) {
    const int64_t width = layer.intermediate_size;
    uint16_t* h = rows(Scratch::hidden, num_tokens, width);
    if (share_activations(layer.up, layer.gate)) {
        const PackedWeight& up = layer.up.packed;
        const Activations a = quantize_activations(x, num_tokens, up.num_inputs, up.num_inputs, up.order, up.bits, up.unit, low);
        quantized_swiglu(up, layer.gate.packed, a, h, width);
    } else {
        uint16_t* gate = rows(Scratch::gate, num_tokens, width);
        linear(layer.up, x, num_tokens, layer.hidden_size, low, {h, width, Store::BF16});
        linear(layer.gate, x, num_tokens, layer.hidden_size, low, {gate, width, Store::BF16});
        silu_mul(h, gate, num_tokens * width, h);
    }
    return h;
}

}  // namespace

void linear(const Linear& weight, const uint16_t* x, int64_t num_tokens, int64_t stride, Low low, const Output& y) {
    if (!weight.is_packed) return dense_linear(weight.dense, x, num_tokens, stride, y);
    const PackedWeight& w = weight.packed;
    quantized_linear(w, quantize_activations(x, num_tokens, w.num_inputs, stride, w.order, w.bits, w.unit, low), y);
}

void decoder_layer(const Layer& layer, float* x, int64_t num_tokens, const Rotation& rotation, const CacheLayer& cache,
                   const AttentionBatch& batch, Low low) {
    const int64_t size = layer.hidden_size, query_width = int64_t(layer.num_heads) * cache.head_dim;
    const int64_t qkv_width = query_width + 2 * int64_t(cache.num_kv_heads) * cache.head_dim;
    uint16_t* normed = rows(Scratch::norm, num_tokens, size > query_width ? size : query_width);
    uint16_t* qkv = rows(Scratch::qkv, num_tokens, qkv_width);

    rms_norm(x, layer.attention_norm, layer.eps, num_tokens, size, normed);
    linear(layer.qkv, normed, num_tokens, size, low, {qkv, qkv_width, Store::BF16});
    rotate_and_store(qkv, num_tokens, layer.num_heads, rotation, cache);
    uint16_t* attended = normed;
    paged_attention(qkv, qkv_width, layer.num_heads, cache, batch, attended, query_width);
    linear(layer.output, attended, num_tokens, query_width, low, {x, size, Store::ADD_ROUNDED});

    rms_norm(x, layer.mlp_norm, layer.eps, num_tokens, size, normed);
    const uint16_t* h = swiglu(layer, normed, num_tokens, low);
    linear(layer.down, h, num_tokens, layer.intermediate_size, low, {x, size, Store::ADD_ROUNDED});
}

}  // namespace qw
