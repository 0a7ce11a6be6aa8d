//! Windows: when a period's counter starts anew. UTC; weeks start on Monday.
