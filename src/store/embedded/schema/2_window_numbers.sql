-- Windows have numbers: a hold settles into the window whose number it has, whatever dates that
-- window got since. `requests_window` and the others count up by one with each new window of the
-- scope; `holds` becomes [[scope, numbers of its requests, tokens and USD window], …].
ALTER TABLE counters ADD COLUMN requests_window INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counters ADD COLUMN tokens_window INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counters ADD COLUMN usd_window INTEGER NOT NULL DEFAULT 0;

-- Until here a hold named its windows by their start. Every present window now has the number 0.
-- A scope without a row was never charged: its windows are those of `total`, from 0 for ever.
UPDATE reservations SET holds = (
    SELECT json_group_array(json_array(
        hold.value ->> 0,
        iif(hold.value ->> 1 = coalesce(present.requests_since, 0), 0, -1),
        iif(hold.value ->> 2 = coalesce(present.tokens_since, 0), 0, -1),
        iif(hold.value ->> 3 = coalesce(present.usd_since, 0), 0, -1)))
    FROM json_each(reservations.holds) AS hold
    LEFT JOIN counters AS present ON present.scope = hold.value ->> 0);
