//! One value's text to a domain value. An error says what was expected, with an example.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

type Made<T> = Result<T, String>;

/// Bytes: `32MiB`, `512KiB`, `1GB`, `1048576`.
pub fn size(text: &str) -> Made<usize> {
    const UNITS: [(&str, usize); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let number = digits.trim_end().parse::<usize>().ok();
    let scale = UNITS.iter().find(|(name, _)| *name == unit);
    number
        .zip(scale)
        .and_then(|(number, (_, scale))| number.checked_mul(*scale))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| String::from("expected a size such as 32MiB, 512KiB or 1048576"))
}

/// A time above zero: `250ms`, `30s`, `15m`, `24h`, `30d`.
pub fn duration(text: &str) -> Made<Duration> {
    let made = humantime::parse_duration(text).ok();
    made.filter(|made| !made.is_zero() && *made <= Duration::from_secs(10 * 366 * 86_400))
        .ok_or_else(|| String::from("expected a duration such as 250ms, 30s, 15m or 24h"))
}

/// As `duration`, within bounds that a message can name.
pub fn duration_in(low: &'static str, high: &'static str) -> impl Fn(&str) -> Made<Duration> {
    move |text| {
        let made = duration(text)?;
        let bound = |text| humantime::parse_duration(text).unwrap_or_default();
        if (bound(low)..=bound(high)).contains(&made) {
            Ok(made)
        } else {
            Err(format!("expected a duration from {low} to {high}"))
        }
    }
}

/// Whole days, as `30d`.
pub fn days(text: &str) -> Made<u32> {
    const DAY_SECS: u64 = 86_400;
    let whole =
        |made: &Duration| made.as_secs().is_multiple_of(DAY_SECS) && made.subsec_nanos() == 0;
    let made = duration(text).ok().filter(whole);
    made.and_then(|made| u32::try_from(made.as_secs() / DAY_SECS).ok())
        .ok_or_else(|| String::from("expected whole days such as 30d"))
}

pub fn boolean(text: &str) -> Made<bool> {
    match text {
        "true" | "True" | "TRUE" => Ok(true),
        "false" | "False" | "FALSE" => Ok(false),
        _ => Err(String::from("expected true or false")),
    }
}

/// A whole number from `low` to `high`.
pub fn whole<T>(low: i64, high: i64) -> impl Fn(&str) -> Made<T>
where
    T: TryFrom<i64>,
{
    move |text| {
        let number = text.replace('_', "").parse::<i64>().ok();
        number
            .filter(|number| (low..=high).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("expected a whole number from {low} to {high}"))
    }
}

/// `5%`, or `5`: from 1 to 100.
pub fn percent(text: &str) -> Made<u8> {
    let digits = text.strip_suffix('%').unwrap_or(text).trim_end();
    whole(1, 100)(digits).map_err(|_| String::from("expected a percentage from 1% to 100%"))
}

pub fn listen_address(text: &str) -> Made<SocketAddr> {
    text.parse().map_err(|_| {
        String::from("expected an IP address and a port such as 0.0.0.0:8787 or [::1]:8787")
    })
}

/// A network, or a single address.
pub fn network(text: &str) -> Made<IpNet> {
    let network = text.parse::<IpNet>();
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    network
        .or_else(|_| address())
        .map_err(|_| String::from("expected a network such as 10.0.0.0/8, or an IP address"))
}

/// Text that is not empty and of one line.
pub fn text(text: &str) -> Made<String> {
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err(String::from("expected one line of text that is not empty"));
    }
    Ok(String::from(text))
}

/// A pattern in which `*` stands for any text.
pub fn glob(text: &str) -> Made<String> {
    match globset::Glob::new(text) {
        Ok(_) if !text.is_empty() => Ok(String::from(text)),
        _ => Err(String::from("expected a name or a pattern such as gpt-*")),
    }
}

/// A path of a URL, from its first slash.
pub fn url_path(text: &str) -> Made<String> {
    let fits =
        text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic()) && !text.contains('#');
    fits.then(|| String::from(text))
        .ok_or_else(|| String::from("expected a path that begins with a slash, such as /v1/models"))
}

/// One of a few words.
pub fn choice<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&str) -> Made<T> {
    move |text| {
        let found = choices.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&'static str> = choices.iter().map(|(word, _)| *word).collect();
            let all = words.join(", ");
            nearest(text, &words).map_or_else(
                || format!("expected one of {all}"),
                |near| format!("expected one of {all}; did you mean `{near}`?"),
            )
        })
    }
}

/// The known word that a misspelt one was most likely meant to be.
pub fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    const LIKE: f64 = 0.8;
    // No field is nearly as long, and likeness takes time that grows with the square.
    const MAX_BYTES: usize = 100;
    if word.len() > MAX_BYTES {
        return None;
    }
    let likeness = |known: &&'static str| strsim::jaro_winkler(&word.to_lowercase(), known);
    let best = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LIKE).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("32MiB"), Ok(32 << 20));
        assert_eq!(size("512KiB"), Ok(512 << 10));
        assert_eq!(size("2 GB"), Ok(2_000_000_000));
        assert_eq!(size("1048576"), Ok(1 << 20));
        for wrong in [
            "",
            "0",
            "-1",
            "32 MiBs",
            "MiB",
            "1.5MiB",
            "99999999999999GiB",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(days("30d"), Ok(30));
        for wrong in ["30", "", "0s", "-1s", "soon", "9999999999999999y"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(days("36h").is_err());
        assert!(duration_in("1s", "1h")("2h").is_err());
    }

    #[test]
    fn numbers_keep_their_bounds() {
        assert_eq!(whole::<u16>(1, 65_535)("587"), Ok(587));
        assert_eq!(whole::<i64>(0, i64::MAX)("1_000"), Ok(1_000));
        assert!(whole::<u16>(1, 65_535)("0").is_err());
        assert!(whole::<u32>(0, 10)("1.5").is_err());
        assert_eq!(percent("5%"), Ok(5));
        assert!(percent("101%").is_err());
    }

    #[test]
    fn a_misspelt_word_is_recognised_and_a_foreign_one_is_not() {
        let known = ["max_request_body", "max_upload"];
        assert_eq!(
            nearest("max_request_boddy", &known),
            Some("max_request_body")
        );
        assert_eq!(nearest("Max_Upload", &known), Some("max_upload"));
        assert_eq!(nearest("zzz", &known), None);
        assert_eq!(nearest(&"max_upload".repeat(11), &known), None);
    }
}
