//! The text the fake writes: a fixed run of words, one word chunk for each token.

/// Plain ASCII without anything that JSON would escape.
const WORDS: [&str; 32] = [
    "the", "quick", "proxy", "counts", "every", "word", "that", "passes", "and", "keeps", "its",
    "books", "in", "order", "while", "a", "stream", "of", "small", "pieces", "flows", "from",
    "one", "side", "to", "other", "without", "ever", "being", "held", "back", "again",
];

/// What an answer consists of; the length of this list is its visible output tokens.
#[derive(Clone, Debug)]
pub enum Pieces {
    /// An opening of its own, then words from the fixed run, `count` in all.
    Words { opening: Vec<String>, count: u32 },
    /// The cut-up JSON arguments of a tool call.
    Arguments(Vec<String>),
}

impl Pieces {
    /// `count` words; `opening` comes first and counts among them.
    pub fn words(opening: &str, count: u32) -> Self {
        let opening = opening.split_inclusive(' ').map(str::to_owned).collect();
        Pieces::Words { opening, count }
    }

    /// `json` in pieces of about one token, at most `count` of them.
    pub fn arguments(json: &str, count: u32) -> Self {
        let characters: Vec<char> = json.chars().collect();
        let pieces = characters.chunks(4).map(|piece| piece.iter().collect());
        Pieces::Arguments(pieces.take(count as usize).collect())
    }

    pub fn len(&self) -> u32 {
        match self {
            Pieces::Words { count, .. } => *count,
            Pieces::Arguments(pieces) => u32::try_from(pieces.len()).unwrap_or(u32::MAX),
        }
    }

    /// Adds piece number `index` to `text`, as it stands between the quotes of a JSON string.
    pub fn write_escaped(&self, index: u32, text: &mut String) {
        let at = index as usize;
        let special = match self {
            Pieces::Words { opening, .. } => opening.get(at),
            Pieces::Arguments(pieces) => pieces.get(at),
        };
        if let Some(piece) = special {
            let quoted = serde_json::Value::from(piece.as_str()).to_string();
            text.push_str(&quoted[1..quoted.len() - 1]);
        } else if matches!(self, Pieces::Words { .. }) {
            text.push_str(WORDS[at % WORDS.len()]);
            text.push(' ');
        }
    }

    /// Everything, as clear text.
    pub fn text(&self) -> String {
        match self {
            Pieces::Arguments(pieces) => pieces.concat(),
            Pieces::Words { opening, count } => {
                let mut text: String = opening.iter().take(*count as usize).cloned().collect();
                for at in opening.len()..*count as usize {
                    text.push_str(WORDS[at % WORDS.len()]);
                    text.push(' ');
                }
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_pieces_as_tokens_and_the_same_text_in_both_ways() {
        for pieces in [
            Pieces::words("I see 2 images. ", 9),
            Pieces::words("I see 2 images. ", 2),
            Pieces::arguments(r#"{"city":"example","unit":"c"}"#, 100),
            Pieces::arguments(r#"{"city":"example"}"#, 2),
        ] {
            let mut escaped = String::from("\"");
            (0..pieces.len()).for_each(|i| pieces.write_escaped(i, &mut escaped));
            escaped.push('"');
            let text: String = serde_json::from_str(&escaped).unwrap();
            assert_eq!(text, pieces.text());
        }
        assert_eq!(Pieces::words("", 3).text(), "the quick proxy ");
    }
}
