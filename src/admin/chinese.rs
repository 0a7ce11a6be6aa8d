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
    (
        "give the key's 16 to 255 visible ASCII letters, or in api_key_sha256 the 64 hexadecimal digits \
         of its SHA-256, and not both",
        "请提供密钥本身（16 到 255 个可见 ASCII 字符），或在 api_key_sha256 中提供其 SHA-256 的 64 位十六进制数字，二者只能选一",
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
    (
        "a JSON array of 1 to 1000 objects",
        "由 1 到 1000 个对象组成的 JSON 数组",
    ),
    ("a JSON object", "JSON 对象"),
    (
        "an object of at most 16384 bytes and 16 levels",
        "不超过 16384 字节、16 层的对象",
    ),
    (
        "1 to 32 letters, digits, - or _, beginning with a letter or digit",
        "1 到 32 个字母、数字、- 或 _，以字母或数字开头",
    ),
    (
        "USD from 0 to 9007199, at most 9 decimals (0 is unlimited)",
        "0 到 9007199 的美元金额，最多 9 位小数（0 为不限）",
    ),
    ("an id, or the whole key", "ID，或完整的密钥"),
    (
        "give it or expires_in_days, not both",
        "与 expires_in_days 只能给出其一",
    ),
    (
        "give it or valid_days, not both",
        "与 valid_days 只能给出其一",
    ),
    ("give key or id, not both", "key 与 id 只能给出其一"),
    (
        "give quota or max_calls, or the same in both",
        "quota 与 max_calls 只给出其一，或给出相同的值",
    ),
    ("lies before the start", "早于开始时间"),
    (
        "the amounts together are more than the books take",
        "amount 之和超出账目上限",
    ),
    ("an e-mail address", "电子邮件地址"),
    (
        "3 to 64 letters, digits, dots, - or _",
        "3 到 64 个字母、数字、点、- 或 _",
    ),
    ("admin or member", "admin 或 member"),
    ("ids or names of groups", "分组的 ID 或名称"),
    ("the id or name of a group", "分组的 ID 或名称"),
    (
        "16 to 128 visible ASCII characters without spaces",
        "16 到 128 个不含空格的可见 ASCII 字符",
    ),
    ("tokens or usd", "tokens 或 usd"),
    ("active or disabled", "active 或 disabled"),
    (
        "say the quota along with a new quota_type",
        "更改 quota_type 时须同时给出 quota",
    ),
    (
        "registration is off: an operator makes users",
        "未开放注册：由管理员创建用户",
    ),
    ("no more users may register", "用户数已达上限，无法注册"),
    ("this user is switched off", "该用户已停用"),
    (
        "you may not put keys into that group",
        "无权将密钥放入该分组",
    ),
    ("this is for operators", "仅限管理员"),
    ("custom_key is taken already", "custom_key 已被占用"),
    (
        "the user is being changed by others, try again",
        "该用户正被他人修改，请重试",
    ),
    (
        "key, model, day, group or end_user",
        "key、model、day、group 或 end_user",
    ),
    ("json or csv", "json 或 csv"),
    (
        "a time back from now such as 7d, a day such as 2026-11-21, or a time such as 2026-11-21T08:00:00Z",
        "距今时长（如 7d）、日期（如 2026-11-21）或时间（如 2026-11-21T08:00:00Z）",
    ),
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
