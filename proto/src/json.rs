//! JSON text to the byte, where it is compared as text.

use std::borrow::Cow;

/// The text as Go's encoder writes it: letters that mean something in HTML or to JavaScript are
/// escaped. They stand in strings alone, so that nothing has to be parsed.
/// <https://pkg.go.dev/encoding/json#HTMLEscape>
pub fn as_go(text: &str) -> Cow<'_, str> {
    const LETTERS: [char; 5] = ['<', '>', '&', '\u{2028}', '\u{2029}'];
    // Most texts have none of them. In pieces without an early end the compiler looks at many bytes
    // at once.
    let has = |piece: &[u8]| {
        let found = |byte: &u8| matches!(byte, b'<' | b'>' | b'&' | 0xe2);
        piece.iter().fold(false, |any, byte| any | found(byte))
    };
    if !text.as_bytes().chunks(256).any(has) {
        return text.into();
    }
    let (mut escaped, mut rest) = (String::with_capacity(text.len() + 32), text);
    while let Some(at) = rest.find(LETTERS) {
        let letter = rest[at..].chars().next().unwrap_or_default();
        escaped.push_str(&rest[..at]);
        escaped.push_str(&format!("\\u{:04x}", u32::from(letter)));
        rest = &rest[at + letter.len_utf8()..];
    }
    escaped.push_str(rest);
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_html_and_javascript() {
        assert!(matches!(as_go(r#"{"a":"b\"é"}"#), Cow::Borrowed(_)));
        assert_eq!(as_go("…"), "…");
        assert_eq!(
            as_go("{\"<b>\":\"a && \u{2028}…\u{2029}\"}"),
            r#"{"\u003cb\u003e":"a \u0026\u0026 \u2028…\u2029"}"#
        );
    }
}
