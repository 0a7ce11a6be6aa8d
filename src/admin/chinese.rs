//! The admin service's fixed sentences in Chinese. What is not in here is said in English.

/// A sentence in Chinese, or as it is where nobody has translated it.
pub fn chinese(english: &str) -> &str {
    let found = SENTENCES.iter().find(|(from, _)| *from == english);
    found.map_or(english, |(_, to)| to)
}

/// English, Chinese.
const SENTENCES: &[(&str, &str)] = &[
    ("API key", "API 密钥"),
    ("Group", "分组"),
    ("User", "用户"),
    (
        "a day such as 2026-11-21, or a time such as 2026-11-21T08:00:00Z",
        "日期（如 2026-11-21）或时间（如 2026-11-21T08:00:00Z）",
    ),
    (
        "a list of addresses and networks such as 10.0.0.0/8, 192.0.2.1, 2001:db8::/32",
        "地址或网段的列表，如 10.0.0.0/8、192.0.2.1、2001:db8::/32",
    ),
    (
        "a time to come such as 2027-01-31T08:00:00Z, or a day such as 2027-01-31",
        "将来的时间（如 2027-01-31T08:00:00Z）或日期（如 2027-01-31）",
    ),
    ("an object {limit, period}", "对象 {limit, period}"),
    (
        "an object with requests, tokens or usd",
        "含有 requests、tokens 或 usd 的对象",
    ),
    ("model names or globs", "模型名称或通配符"),
    (
        "model names or globs such as gpt-4o*",
        "模型名称或通配符，如 gpt-4o*",
    ),
    ("names of pools", "上游池名称"),
    (
        "origins such as example.com, https://example.com, *.example.com",
        "来源，如 example.com、https://example.com、*.example.com",
    ),
    ("path", "路径"),
    (
        "send the API key as Authorization: Bearer or X-API-Key",
        "请以 Authorization: Bearer 或 X-API-Key 发送 API 密钥",
    ),
    ("sign in with Basic authentication", "请使用 Basic 认证登录"),
    (
        "sign in: Authorization: Bearer with the admin token, or with one from POST /admin/login",
        "请登录：以 Authorization: Bearer 发送管理令牌，或 POST /admin/login 返回的令牌",
    ),
    ("the body broke off", "请求体中断"),
    ("the query string cannot be read", "无法解析查询参数"),
    (
        "the session is over, sign in again",
        "会话已过期，请重新登录",
    ),
    ("the token is not valid", "令牌无效"),
    ("the user name or the password is wrong", "用户名或密码错误"),
    (
        "total, daily, weekly or monthly",
        "total、daily、weekly 或 monthly",
    ),
    ("true or false", "true 或 false"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_found_and_stand_once() {
        let names: std::collections::BTreeSet<_> = SENTENCES.iter().map(|(from, _)| from).collect();
        assert_eq!(names.len(), SENTENCES.len());
        assert_eq!(chinese("true or false"), "true 或 false");
        assert_eq!(chinese("no such sentence"), "no such sentence");
    }
}
