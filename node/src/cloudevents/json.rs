//! How deep JSON may be nested that is given out as JSON.

/// Arrays and objects within each other, at most. Readers of JSON refuse a whole document beyond some depth, many of them
/// at 128, and one event must not keep them from reading the others.
pub(crate) const MAX_JSON_DEPTH: usize = 100;

/// Whether arrays and objects stand deeper within each other than [`MAX_JSON_DEPTH`], in a text that is JSON.
pub(crate) fn is_nested_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_text, mut bytes) = (0_usize, false, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_text = !in_text,
            // What it escapes is not looked at.
            b'\\' if in_text => drop(bytes.next()),
            b'[' | b'{' if !in_text => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    return true;
                }
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn only_what_stands_within_each_other_counts() {
        assert!(!is_nested_too_deep(nested(MAX_JSON_DEPTH).as_bytes()));
        assert!(is_nested_too_deep(nested(MAX_JSON_DEPTH + 1).as_bytes()));
        let objects = "{\"a\":".repeat(MAX_JSON_DEPTH + 1) + "1" + &"}".repeat(MAX_JSON_DEPTH + 1);
        assert!(is_nested_too_deep(objects.as_bytes()));
        let beside = format!("[{}]", vec!["[{}]"; 1000].join(","));
        assert!(!is_nested_too_deep(beside.as_bytes()));
        let texts = format!(r#"["\\\"{}", "\\", "{}"]"#, "[".repeat(200), "{".repeat(200));
        assert!(!is_nested_too_deep(texts.as_bytes()));
        let after = format!(r#"["\\", {}]"#, nested(MAX_JSON_DEPTH));
        assert!(is_nested_too_deep(after.as_bytes()));
    }
}
