//! The language of messages: English, or Chinese where the caller prefers it.

/// A language that messages are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    #[default]
    English,
    Chinese,
}

impl Language {
    /// What `Accept-Language` asks for (RFC 9110 section 12.5.4).
    pub fn preferred(accept: &str) -> Language {
        if prefers_chinese(accept) {
            Language::Chinese
        } else {
            Language::English
        }
    }
}

fn prefers_chinese(accept: &str) -> bool {
    let quality = |language: &str| {
        accept
            .split(',')
            .filter_map(|part| {
                let (tag, params) = part.trim().split_once(';').unwrap_or((part.trim(), ""));
                let primary = tag.split('-').next().unwrap_or_default();
                let q = params
                    .trim()
                    .strip_prefix("q=")
                    .and_then(|q| q.parse::<f32>().ok())
                    .unwrap_or(1.0);
                primary.eq_ignore_ascii_case(language).then_some(q)
            })
            .fold(0.0_f32, f32::max)
    };
    let chinese = quality("zh");
    chinese > 0.0 && chinese >= quality("en")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn language_preference_follows_quality() {
        assert!(prefers_chinese("zh-CN,zh;q=0.9,en;q=0.8"));
        assert!(!prefers_chinese("en-US,en;q=0.9,zh;q=0.5"));
        assert!(!prefers_chinese("de"));
    }
}
