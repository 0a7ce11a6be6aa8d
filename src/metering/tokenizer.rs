//! Text to tokens where a tokenizer is known, loaded at its first use only.

use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};
use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton, p50k_base_singleton};

/// Longest piece given to the tokenizer at once, in bytes: its time and its regex engine's stack
/// grow faster than the text where nothing separates words.
const PIECE_BYTES: usize = 2_048;

/// Tokens of `text` by the model's own tokenizer, or `None` where it has no public one.
pub(super) fn count(model: &str, text: &str) -> Option<i64> {
    let tokenizer = of_model(model)?;
    let mut rest = text;
    let mut tokens = 0;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(piece_len(rest));
        tokens += tokenizer.encode_ordinary(piece).len();
        rest = tail;
    }
    i64::try_from(tokens).ok()
}

fn of_model(model: &str) -> Option<&'static CoreBPE> {
    // Routers put the maker before the name: `openai/gpt-4o`.
    let name = model.rsplit('/').next().unwrap_or(model);
    let known = get_tokenizer(name).or_else(|| {
        let lower = name.to_ascii_lowercase();
        let openai = ["gpt-", "chatgpt-", "o1", "o3", "o4"];
        openai
            .iter()
            .any(|prefix| lower.starts_with(prefix))
            .then_some(Tokenizer::O200kBase)
    })?;
    Some(match known {
        Tokenizer::O200kBase | Tokenizer::O200kHarmony => o200k_base_singleton(),
        Tokenizer::Cl100kBase => cl100k_base_singleton(),
        Tokenizer::P50kBase | Tokenizer::P50kEdit | Tokenizer::R50kBase | Tokenizer::Gpt2 => {
            p50k_base_singleton()
        }
    })
}

/// Where to cut: before the last space in reach, else at a character.
fn piece_len(text: &str) -> usize {
    if text.len() <= PIECE_BYTES {
        return text.len();
    }
    let mut end = PIECE_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let head = text.get(..end).unwrap_or(text);
    match head.rfind(' ') {
        Some(space) if space > PIECE_BYTES / 2 => space,
        _ => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_models_are_counted_by_their_tokenizer() {
        assert_eq!(count("gpt-4o", "Hello, world!"), Some(4));
        assert_eq!(count("openai/gpt-4o-mini", "Hello, world!"), Some(4));
        assert_eq!(count("gpt-9-future", "Hello, world!"), Some(4));
        assert_eq!(count("claude-sonnet-4-5", "Hello"), None);
        assert_eq!(count("gpt-4o", ""), Some(0));
    }

    #[test]
    fn pieces_count_about_as_the_whole() {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(500);
        let whole = o200k_base_singleton().encode_ordinary(&text).len() as i64;
        let pieces = count("gpt-4o", &text).unwrap();
        assert!((pieces - whole).abs() <= 12, "{pieces} against {whole}");
    }

    #[test]
    fn text_without_a_space_ends_soon() {
        for text in ["a".repeat(65_536), " ".repeat(65_536), "é".repeat(32_768)] {
            assert!(count("gpt-4o", &text).unwrap() > 0);
        }
    }
}
