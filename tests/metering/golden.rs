//! Golden provider traffic: the same observation however the bytes are cut and encoded, and the
//! client gets what the upstream sent (RELIABILITY tests 14 and 15).

use crate::support::{CODINGS, decoded, encoded, feed, goldens, header};
use bytes::Bytes;

#[test]
fn every_golden_answer_is_read_as_expected() {
    for golden in goldens() {
        let mut meter = golden.meter("", false);
        let got = feed(&mut meter, [golden.body.as_slice()]);
        golden.assert(&meter.observe(), "whole");
        assert!(got == golden.body, "{}: bytes changed", golden.name);
    }
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for golden in goldens() {
        for cut in 0..=golden.body.len() {
            let (head, tail) = golden.body.split_at(cut);
            let mut meter = golden.meter("identity", false);
            let got = feed(&mut meter, [head, tail]);
            golden.assert(&meter.observe(), &format!("cut at {cut}"));
            assert!(got == golden.body, "{}: bytes changed", golden.name);
        }
        let mut meter = golden.meter("", false);
        feed(&mut meter, golden.body.chunks(1));
        golden.assert(&meter.observe(), "byte by byte");
    }
}

#[test]
fn every_line_ending_and_a_byte_order_mark_change_nothing() {
    for mut golden in goldens() {
        if !golden.name.ends_with(".sse") {
            continue;
        }
        let text = String::from_utf8(golden.body.clone()).unwrap();
        for ending in ["\n", "\r", "\r\n"] {
            let other = text.replace("\r\n", "\n").replace('\n', ending);
            golden.body = format!("\u{feff}{other}").into_bytes();
            for size in [1, 7, 64, 100_000] {
                let mut meter = golden.meter("", false);
                let got = feed(&mut meter, golden.body.chunks(size));
                golden.assert(&meter.observe(), &format!("{ending:?} by {size}"));
                assert!(got == golden.body);
            }
        }
    }
}

#[test]
fn data_over_several_lines_is_one_document() {
    for mut golden in goldens() {
        if !golden.name.ends_with(".sse") {
            continue;
        }
        let text = String::from_utf8(golden.body.clone()).unwrap();
        // A newline in front of a member is white space; inside a text there is none of these.
        golden.body = text
            .replace(",\"choices\"", ",\ndata: \"choices\"")
            .into_bytes();
        golden.body = String::from_utf8(golden.body)
            .unwrap()
            .replace("data: {\"type\"", "data: {\ndata:\"type\"")
            .into_bytes();
        for size in [1, 50, 100_000] {
            let mut meter = golden.meter("", false);
            feed(&mut meter, golden.body.chunks(size));
            golden.assert(&meter.observe(), &format!("lines by {size}"));
        }
    }
}

#[test]
fn every_encoding_is_read_wherever_it_is_cut() {
    for golden in goldens() {
        for coding in CODINGS {
            let body = encoded(coding, &golden.body);
            let step = 1 + body.len() / 200;
            for cut in (0..=body.len()).step_by(step) {
                let (head, tail) = body.split_at(cut);
                let mut meter = golden.meter(header(coding), false);
                let got = feed(&mut meter, [head, tail]);
                golden.assert(&meter.observe(), &format!("{coding} cut at {cut}"));
                assert!(got == body, "{}: {coding} bytes changed", golden.name);
            }
            let mut meter = golden.meter(header(coding), false);
            feed(&mut meter, body.chunks(1));
            golden.assert(&meter.observe(), &format!("{coding} byte by byte"));
        }
    }
}

#[test]
fn members_of_a_gzip_file_and_frames_of_zstd_follow_each_other() {
    for golden in goldens() {
        for coding in ["gzip", "zstd"] {
            let (head, tail) = golden.body.split_at(golden.body.len() / 2);
            let body = [encoded(coding, head), encoded(coding, tail)].concat();
            for size in [1, 100, 100_000] {
                let mut meter = golden.meter(coding, false);
                feed(&mut meter, body.chunks(size));
                golden.assert(&meter.observe(), &format!("{coding} twice by {size}"));
            }
        }
    }
}

#[test]
fn the_usage_chunk_is_taken_out_wherever_the_stream_is_cut() {
    for golden in goldens().iter().filter(|golden| golden.strip) {
        let expected = golden.stripped();
        assert!(expected.len() < golden.body.len(), "{}", golden.name);
        for cut in 0..=golden.body.len() {
            let (head, tail) = golden.body.split_at(cut);
            let mut meter = golden.meter("", true);
            let got = feed(&mut meter, [head, tail]);
            golden.assert(&meter.observe(), &format!("stripped, cut at {cut}"));
            assert_eq!(
                String::from_utf8_lossy(&got),
                String::from_utf8_lossy(&expected),
                "{} cut at {cut}",
                golden.name
            );
        }
        for size in 1..80 {
            let mut meter = golden.meter("", true);
            let got = feed(&mut meter, golden.body.chunks(size));
            assert!(got == expected, "{} by {size}", golden.name);
        }
    }
}

#[test]
fn the_usage_chunk_is_taken_out_with_any_line_ending() {
    for golden in goldens().iter().filter(|golden| golden.strip) {
        let body = String::from_utf8(golden.body.clone()).unwrap();
        let expected = String::from_utf8(golden.stripped()).unwrap();
        for ending in ["\r", "\r\n"] {
            let body = body.replace('\n', ending).into_bytes();
            let expected = expected.replace('\n', ending).into_bytes();
            for cut in 0..=body.len() {
                let (head, tail) = body.split_at(cut);
                let mut meter = golden.meter("", true);
                assert!(feed(&mut meter, [head, tail]) == expected, "cut at {cut}");
            }
            let mut meter = golden.meter("", true);
            assert!(feed(&mut meter, body.chunks(1)) == expected);
        }
    }
}

#[test]
fn nothing_is_taken_out_where_no_usage_chunk_is() {
    for golden in goldens().iter().filter(|golden| !golden.strip) {
        for size in [1, 33, 100_000] {
            let mut meter = golden.meter("", true);
            let got = feed(&mut meter, golden.body.chunks(size));
            assert!(got == golden.body, "{} by {size}", golden.name);
        }
    }
}

#[test]
fn a_chunk_leaves_when_it_arrives_while_usage_is_taken_out() {
    for golden in goldens().iter().filter(|golden| golden.strip) {
        let text = String::from_utf8(golden.body.clone()).unwrap();
        let mut meter = golden.meter("", true);
        for event in text.split_inclusive("\n\n") {
            let event = Bytes::copy_from_slice(event.as_bytes());
            match meter.push(&event, false) {
                None => {}
                Some(instead) => {
                    assert!(instead.is_empty(), "{}", golden.name);
                    assert!(event.windows(13).any(|w| w == b"\"choices\":[],"));
                }
            }
        }
    }
}

#[test]
fn a_cut_chunk_leaves_as_soon_as_it_shows_a_choice() {
    for golden in goldens().iter().filter(|golden| golden.strip) {
        let text = String::from_utf8(golden.body.clone()).unwrap();
        let mut meter = golden.meter("", true);
        for event in text.split_inclusive("\n\n") {
            let Some(at) = event.find("\"choices\":[{") else {
                continue;
            };
            let (head, tail) = event.split_at(at + 12);
            let push = |meter: &mut quota_proxy::metering::Meter, part: &str| {
                let part = Bytes::copy_from_slice(part.as_bytes());
                meter.push(&part, false).unwrap_or(part)
            };
            let (name, rest) = head.split_at(at);
            assert_eq!(push(&mut meter, name), "", "{}", golden.name);
            assert_eq!(push(&mut meter, rest), head, "{}", golden.name);
            assert_eq!(push(&mut meter, tail), tail, "{}", golden.name);
        }
    }
}

#[test]
fn a_usage_chunk_too_long_to_hold_passes_whole() {
    let golden = goldens().into_iter().find(|golden| golden.strip).unwrap();
    let body = format!(
        "data: {{\"pad\":\"{}\",\"choices\":[],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":4}}}}\n\ndata: [DONE]\n\n",
        "x".repeat(40_000)
    );
    for size in [1_000, 16_000, 39_000] {
        let mut meter = golden.meter("", true);
        let got = feed(&mut meter, body.as_bytes().chunks(size));
        assert!(got == body.as_bytes(), "in pieces of {size}");
        assert_eq!(meter.observe().usage.unwrap().output_tokens, 4);
    }
}

#[test]
fn in_an_encoded_stream_the_usage_chunk_is_taken_out_too_and_nothing_waits() {
    for golden in goldens().iter().filter(|golden| golden.strip) {
        let expected = golden.stripped();
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let body = encoded(coding, &golden.body);
            for size in [1, 37, 100_000] {
                let mut meter = golden.meter(coding, true);
                let got = feed(&mut meter, body.chunks(size));
                golden.assert(&meter.observe(), &format!("{coding} recoded by {size}"));
                let got = decoded(coding, &got);
                assert!(got == expected, "{} {coding} by {size}", golden.name);
            }
        }
        // Every event flushed by the upstream is decodable by the client at once.
        let text = String::from_utf8(golden.body.clone()).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let mut meter = golden.meter("gzip", true);
        let (mut got, mut sent) = (Vec::new(), Vec::new());
        for event in text.split_inclusive("\n\n") {
            use std::io::Write as _;
            encoder.write_all(event.as_bytes()).unwrap();
            encoder.flush().unwrap();
            let piece = Bytes::from(std::mem::take(encoder.get_mut()));
            got.extend_from_slice(&meter.push(&piece, false).unwrap());
            if !event.contains("\"choices\":[],\"usage\":{") {
                sent.extend_from_slice(event.as_bytes());
            }
            assert!(decoded("gzip", &got) == sent, "{} waits", golden.name);
        }
    }
}
